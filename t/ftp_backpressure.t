#!/usr/bin/perl

# A side that does not read stops the other one: nothing piles up in the
# proxy, and nothing is lost when reading goes on.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

use constant LIMIT => 40_000_000;

$t->run(<<"EOF", workers => 1);
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

# warm up: buffers that are made once do not count

my ($c, $s) = $t->session($server);
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'warm');

my $before = $t->memory;

# a client that does not read, one long reply

$c->command('HELP');
$s->line;
$s->send("214-begin\r\n");
my ($sent, $more) = flood($s, " line of a very long reply\r\n");

my $got = $s->pump($more . "214 end\r\n", $c, until => sub {
    length $_[0] == length("214-begin\r\n") + $sent + length($more) + 9;
});
is(substr($got, -9), "214 end\r\n", 'reply arrives');
ok($got =~ /\A214-begin\r\n(?: line of a very long reply\r\n)+214 end\r\n\z/,
    'every byte of it');

# a server that does not read, one long line of commands

($sent, $more) = flood($c, "NOOP this is a command of some length\r\n");

# it reads again and answers
my ($in, $replies, $answered) = ('', 0, 0);
my $until = time + 2 * $Test::Nginx::FtpConn::DEADLINE;
my $total = ($sent + length $more) / 39;

while ($replies < $total && time < $until) {
    if (length $more) {
        my $n = $c->write_some($more) // last;
        substr $more, 0, $n, '';
    }

    $s->fill(time + 0.001);
    my $count = $s->{in} =~ s/\G.*\n//g;
    if ($count) {
        $answered += $count;
        $s->send("200 ok\r\n" x $count);
    }

    $c->fill(time + 0.001);
    $replies += $c->{in} =~ s/\G200 ok\r\n//g || 0;
}

is($answered, $total, 'every command arrives');
is($replies, $total, 'every reply');

# replies that the proxy writes anew, for a client that does not read

($c, $s) = $t->session($server, rcvbuf => 4096);
my $reply = "227 Entering Passive Mode (1,1,1,1,9,9)\r\n";
my ($asked, $progress, $pending) = (0, time, '');

# as many PASV as the proxy takes, each answered, none of the answers read

while (time < $progress + 1 && $asked < 1_000_000) {
    $c->write_some("PASV\r\n" x 1000) // last;

    if (length $pending) {
        my $n = $s->write_some($pending) // last;
        substr $pending, 0, $n, '';
        $progress = time if $n;
    }

    # a server that reads on while nobody takes its answers would wait itself
    next if length $pending > 100_000;

    $s->fill(time + 0.001);
    my $count = $s->{in} =~ s/\GPASV\r\n//g || 0;
    $pending .= $reply x $count;
    $asked += $count;
    $progress = time if $count;
}

cmp_ok($asked, '<', 1_000_000, 'PASV flood stops');
note("$asked PASV");
cmp_ok($t->memory - $before, '<', $ENV{TEST_NGINX_VALGRIND} ? 262144 : 4096,
    'memory');

# the client goes, which shows at the next reply

$c->reset;
$s->write_some($reply);
like($s->ended, qr/eof|reset/, 'end');

$t->done;

# Sends that text until nobody takes it any more; returns how much left, and
# the rest of the last piece.
sub flood {
    my ($from, $text) = @_;

    my $chunk = $text x 1000;
    my ($sent, $progress) = (0, time);
    my $rest = $chunk;

    while (time < $progress + 1 && $sent < LIMIT) {
        my $n = $from->write_some($rest) // last;
        $sent += $n;

        if ($n) {
            $progress = time;
            substr $rest, 0, $n, '';
            $rest = $chunk unless length $rest;
        } else {
            select undef, undef, undef, 0.01;
        }
    }

    cmp_ok($sent, '<', LIMIT, 'flood stops');

    return ($sent, $rest);
}
