#!/usr/bin/perl

# proxy_timeout: on a data connection it cuts, and that looks cut; a control
# connection is not killed while a transfer of its session lives.

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
    log_format ftp '\$ftp_data_status';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        proxy_timeout 500ms;
        proxy_connect_timeout 500ms;
        access_log logs/access.log ftp;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=two:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        proxy_pass ${\$server->at};
        proxy_timeout 1s;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)};
        ftp_data zone=two;
    }
EOF

# a data connection that stalls

my ($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);
$far->send('part');
is($near->bytes(4), 'part', 'download begins');
is($near->ended, 'reset', 'stalled download client');
is($far->ended, 'reset', 'stalled download server');

($near, $far) = $t->data($c, $s);
$near->send('part');
is($far->bytes(4), 'part', 'upload begins');
is($far->ended, 'reset', 'stalled upload server');
is($near->ended, 'reset', 'stalled upload client');

is($t->dialog($c, $s, NOOP => '200 ok'), '', 'control lives');
is(join(' ', $t->wait_access(2)), 'cut cut', 'logged as cut');

# a server that does not answer the connection itself: its queue is full

my $full = $server->passive(backlog => 1);
my @waiting = map { Test::Nginx::FtpClient->start(port => $full->port) } 1 .. 4;
($c, $s) = $t->session($server);
my $far_port = $c->passive_port($t->passive($c, $s, $full));
is($c->data($far_port, before => 'up')->ended, 'reset', 'no answer');
ok($t->wait_log(qr/upstream timed out/), 'no answer logged');
$_->close for @waiting;

# a control connection that is idle

($c, $s) = $t->session($server, port => $t->port(1));
my $start = time;
is($c->ended, 'eof', 'idle control ends');
cmp_ok(time - $start, '>', 0.5, 'not at once');

# one whose transfer is under way, three times as long

($c, $s) = $t->session($server, port => $t->port(1));
($near, $far) = $t->data($c, $s);
is($t->dialog($c, $s, 'RETR x' => '150 here'), '', 'transfer begins');

$start = time;
my $alive = 1;

while (time < $start + 3) {
    $far->send('.');
    $near->bytes(1) eq '.' or $alive = 0;
    my $next = time + 0.2;
    $t->wait_for('a moment', sub { time > $next });
    $c->waiting;
    last if $c->{end};
}

is($c->{end}, '', 'control outlives its timeout');
ok($alive, 'transfer lives');
$far->finish;
is($near->ended, 'eof', 'transfer ends');
$s->send("226 done\r\n");
is($c->line, "226 done\r\n", 'final reply');
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'next command');

# after it the timeout counts again

is($c->ended, 'eof', 'idle again');

# a waiting reservation is no transfer

($c, $s) = $t->session($server, port => $t->port(1));
my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));
is($c->ended, 'eof', 'waiting port does not hold');
is(Test::Nginx::FtpClient->connect(port => $port)->ended, 'reset',
    'its port is dead');

$t->done;
