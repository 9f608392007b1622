#!/usr/bin/perl

# R24: short addresses that grow, at the end of a full buffer, for a client
# that takes a byte at a time: nothing overflows, nothing is lost.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

my @sizes = (16, 41, 42, 64, 128, 16384);
my $servers = '';

for my $i (0 .. $#sizes) {
    $servers .= <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port($i)} sndbuf=4k;
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)}
                 proxy_ip=203.0.113.255;
        proxy_pass ${\$server->at};
        proxy_buffer_size $sizes[$i];
    }
EOF
}

$t->run(<<"EOF");
$servers
    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

# at the end of a buffer

for my $i (0 .. $#sizes - 1) {
    my ($c, $s) = $t->session($server, port => $t->port($i));
    my @wrong;

    # "200 ...\r\n" in front, so that the 227 ends at and around the boundary
    for my $fill (0 .. $sizes[$i] + 2) {
        my $before = '200 ' . 'x' x $fill . "\r\n";

        $c->send("NOOP\r\nPASV\r\nNOOP\r\n");
        $s->bytes(18);
        $s->send("${before}227 Entering Passive Mode (1,1,1,1,9,9)\r\n200 ok\r\n");

        my $got = $c->line . $c->line . $c->line;

        push @wrong, "$fill: $got" if $got !~ /\A\Q$before\E227\ Entering
            \ Passive\ Mode\ \(203,0,113,255,\d+,\d+\)\r\n200\ ok\r\n\z/x;
    }

    is("@wrong", '', "R24 buffer of $sizes[$i]");
}

# a byte at a time

for my $i (0 .. $#sizes) {
    my ($c, $s) = $t->session($server, port => $t->port($i), rcvbuf => 1);
    my $turns = 400;

    $c->pump("PASV\r\nNOOP\r\n" x $turns, $s, until => sub {
        length $_[0] >= 12 * $turns;
    });

    my $replies = "227 Entering Passive Mode (1,1,1,1,9,9)\r\n"
        . '200 ' . 'y' x 50 . "\r\n";

    my $got = $s->pump($replies x $turns . "221 end\r\n", $c,
        most => 1, until => sub { substr($_[0], -9) eq "221 end\r\n" });

    my $count = () = $got =~ /\G227\ Entering\ Passive\ Mode
        \ \(203,0,113,255,\d+,\d+\)\r\n200\ y{50}\r\n/gx;

    is($count, $turns, "R24 bytewise with $sizes[$i]");
    like($got, qr/y\r\n221 end\r\n\z/, "R24 end with $sizes[$i]");
}

$t->done;
