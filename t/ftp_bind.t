#!/usr/bin/perl

# Where the data connection to the server comes from: where its control
# connection came from, unless proxy_bind says otherwise.

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
        proxy_bind 127.0.0.7;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=two:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)};
        ftp_data zone=two;
        proxy_bind 127.0.0.8;
    }
EOF

my ($c, $s) = $t->session($server);
is($s->peer_addr, '127.0.0.7', 'control source');
my ($near, $far) = $t->data($c, $s);
is($far->peer_addr, '127.0.0.7', 'data source');
$far->send('x');
$far->finish;
is($near->rest, 'x', 'data');

($c, $s) = $t->session($server, port => $t->port(1));
is($s->peer_addr, '127.0.0.1', 'no proxy_bind');
($near, $far) = $t->data($c, $s);
is($far->peer_addr, '127.0.0.8', 'own proxy_bind');
$far->send('x');
$far->finish;
is($near->rest, 'x', 'own data');

$t->done;
