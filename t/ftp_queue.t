#!/usr/bin/perl

# Thousands of pipelined commands: at least 4096 are forwarded before the
# first reply, a flood is bounded, and every reply finds its place.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

# before the first reply

my ($c, $s) = $t->session($server);
my $commands = "NOOP\r\n" x 4096;

is($c->pump($commands, $s, until => sub {
    length $_[0] >= length $commands;
}), $commands, '4096 commands');

my $replies = join '', map { "200 $_\r\n" } 1 .. 4096;

is($s->pump($replies, $c, until => sub {
    length $_[0] >= length $replies;
}), $replies, '4096 replies');

# far more, of them every hundredth answered by the proxy; the server answers
# each as it comes

my $count = 20_000;

$commands = join '', map {
    $_ % 100 == 0 ? "AUTH $_\r\n" : "NOOP $_\r\n";
} 1 .. $count;

my ($numbers, $got, $unanswered, $last) = ('', '', '', -1);
my $until = time + $Test::Nginx::FtpConn::DEADLINE;

while (time < $until && $got !~ /^200 ${\($count - 1)}\r\n502 [^\r\n]*\r\n\z/m) {
    if (length $commands) {
        my $n = $c->write_some($commands) // last;
        substr $commands, 0, $n, '';
    }

    $s->fill(time + 0.001);
    $unanswered .= $s->{in};
    $s->{in} = '';

    my $answers = '';
    $answers .= "200 $1\r\n" while $unanswered =~ s/\ANOOP (\d+)\r\n//;
    $s->send($answers);

    $c->fill(time + 0.001);
    $got .= $c->{in};
    $c->{in} = '';
}

$got =~ s/^502 [^\r\n]*/502/mg;

ok($got eq join('', map {
    $_ % 100 == 0 ? "502\r\n" : "200 $_\r\n";
} 1 .. $count), 'all in order');

is($t->dialog($c, $s, NOOP => '200 in step'), '', 'in step');

# a flood that nobody answers stops somewhere

($c, $s) = $t->session($server);

my $flood = "NOOP\r\n" x 10_000;
my ($sent, $received) = (0, 0);
my $progress = time;

while (time < $progress + 1 && $sent < 60_000_000) {
    my $n = $c->write_some($flood) // last;
    $sent += $n;
    $progress = time if $n;

    $s->fill(time + 0.01);
    $progress = time if length $s->{in};
    $received += length $s->{in};
    $s->{in} = '';
}

cmp_ok($received, '>=', 6 * 4096, 'enough forwarded');
cmp_ok($received, '<', 6 * 1_000_000, 'flood stopped');

$t->done;
