#!/usr/bin/perl

# Stock directives on the data server: allow and deny, rate limits, buffers.

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
        deny 127.0.0.2;
        proxy_buffer_size 1k;
        proxy_download_rate 1m;
        proxy_connect_timeout 5s;
        proxy_socket_keepalive on;
        tcp_nodelay on;
        ssl_preread on;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=slow:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)};
        ftp_data zone=slow;
        allow 127.0.0.1;
        deny all;
        proxy_download_rate 100k;
        proxy_upload_rate 100k;
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

# a rate holds for each transfer, and what is slow still arrives; nginx lets a
# second's worth pass at the start

my $bytes = join('', map { chr } 0 .. 255) x 1000;

for my $way ('download', 'upload') {
    my ($c, $s) = $t->session($server, port => $t->port(1));
    my ($near, $far) = $t->data($c, $s);
    my ($from, $to) = $way eq 'upload' ? ($near, $far) : ($far, $near);

    my $start = time;
    $from->send($bytes);
    $from->finish;
    ok($to->rest eq $bytes, "$way bytes");
    cmp_ok(time - $start, '>', 1, "$way rate");
}

# access is the data server's own: allowed there, whoever asks

($c, $s) = $t->session($server, port => $t->port(1), bind => '127.0.0.3');
$listener = $server->passive;
is($c->data($c->passive_port($t->passive($c, $s, $listener)))->ended, 'reset',
    'not allowed');
ok(!$listener->touched, 'server untouched by it');

$t->done;
