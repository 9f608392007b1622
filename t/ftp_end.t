#!/usr/bin/perl

# How a data connection ends: a clean end stays clean, a reset stays a reset,
# in both directions, and what was sent before arrives.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(30)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=half:1m min_port=${\$t->port(40)} max_port=${\$t->port(45)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 30)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(40, 45)};
        ftp_data zone=half;
        proxy_half_close on;
    }
EOF

my ($c, $s) = $t->session($server);

for my $bytes ('', 'x', 'x' x 300_000) {
    my $name = length($bytes) . ' bytes';

    # download

    my ($near, $far) = $t->data($c, $s);
    $far->send($bytes);
    $far->finish;
    ok($near->rest eq $bytes, "download $name");
    is($near->ended, 'eof', "download $name end");
    is($far->ended, 'eof', "download $name server's end");

    ($near, $far) = $t->data($c, $s);
    $far->send($bytes);
    ok($near->bytes(length $bytes) eq $bytes, "reset download $name");
    $far->reset;
    is($near->ended, 'reset', "reset download $name end");

    # upload

    ($near, $far) = $t->data($c, $s);
    $near->send($bytes);
    $near->finish;
    ok($far->rest eq $bytes, "upload $name");
    is($far->ended, 'eof', "upload $name end");
    is($near->ended, 'eof', "upload $name client's end");

    ($near, $far) = $t->data($c, $s);
    $near->send($bytes);
    ok($far->bytes(length $bytes) eq $bytes, "reset upload $name");
    $near->reset;
    is($far->ended, 'reset', "reset upload $name end");
}

# the reader gives up

my ($near, $far) = $t->data($c, $s);
$far->send('x' x 100_000);
$near->bytes(10);
$near->reset;
is($far->ended, 'reset', 'client gives up');

($near, $far) = $t->data($c, $s);
$near->send('x' x 100_000);
$far->bytes(10);
$far->reset;
is($near->ended, 'reset', 'server gives up');

# the server ends while much of an upload is under way: the client sees a cut

my $slow = $server->passive(rcvbuf => 4096);
my $slow_port = $c->passive_port($t->passive($c, $s, $slow));
$near = $c->data($slow_port);
$far = $slow->accept;
my $total = 0;
while (my $n = $near->write_some('x' x 65536)) { $total += $n }
$far->bytes(10);
$far->finish;
is($near->ended, 'reset', 'early end client');
cmp_ok(length $far->rest, '<', $total, 'early end bytes');
is($far->{end}, 'reset', 'early end server');

# the server does not take the data connection

my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));
$listener->close;
$near = $c->data($port);
is($near->ended, 'reset', 'server refuses');
is($t->dialog($c, $s, 'LIST' => '425 no connection'), '', 'control lives');

# half-close: off above, on here

($c, $s) = $t->session($server, port => $t->port(1));

($near, $far) = $t->data($c, $s);
$near->finish;
is($far->ended, 'eof', 'half-close client');
$far->send('still');
is($near->bytes(5), 'still', 'half-close other way');
$far->finish;
is($near->ended, 'eof', 'half-close end');

($near, $far) = $t->data($c, $s);
$far->send('all');
$far->finish;
is($near->rest, 'all', 'half-close server');
$near->send('still');
is($far->bytes(5), 'still', 'half-close client goes on');
$near->finish;
is($far->ended, 'eof', 'half-close client ends');

# and a reset after a half-close is one

($near, $far) = $t->data($c, $s);
$near->finish;
is($far->ended, 'eof', 'half-close first');
$far->send('part');
is($near->bytes(4), 'part', 'half-close part');
$far->reset;
is($near->ended, 'reset', 'half-close reset');

is($t->dialog($c, $s, NOOP => '200 ok'), '', 'control lives');

$t->done;
