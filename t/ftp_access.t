#!/usr/bin/perl

# Stock directives on the data server: deny, rate limits, buffers.

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
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        deny 127.0.0.2;
        proxy_buffer_size 1k;
        proxy_download_rate 1m;
        proxy_connect_timeout 5s;
        proxy_socket_keepalive on;
        tcp_nodelay on;
        ssl_preread on;
    }
EOF

# a denied client with a reservation is cut before the server is touched

my ($c, $s) = $t->session($server, bind => '127.0.0.2');
my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));
is($c->data($port)->ended, 'reset', 'denied');
ok(!$listener->touched, 'server untouched');

# others are not; an inherited ssl_preread does not wait for their bytes

($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);
$far->send('x' x 100_000);
$far->finish;
is(length $near->rest, 100_000, 'allowed');
is($near->ended, 'eof', 'end');

$t->done;
