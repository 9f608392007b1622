#!/usr/bin/perl

# worker_shutdown_timeout: a transfer that it cuts looks cut on both sides,
# one that ends before it does not.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF", main => 'worker_shutdown_timeout 2s;');
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

my ($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);
my ($c2, $s2) = $t->session($server);
my ($near2, $far2) = $t->data($c2, $s2);

$far->send('part');
$near2->send('part');
is($near->bytes(4) . $far2->bytes(4), 'partpart', 'transfers begin');

my ($c3, $s3) = $t->session($server);
my ($near3, $far3) = $t->data($c3, $s3);

$t->reload;

$far3->send('whole');
$far3->finish;
is($near3->rest, 'whole', 'transfer in time');
is($near3->ended, 'eof', 'transfer in time ends');

is($near->ended, 'reset', 'cut download client');
is($far->ended, 'reset', 'cut download server');
is($far2->ended, 'reset', 'cut upload server');
is($near2->ended, 'reset', 'cut upload client');

# control connections just end

like($_->ended, qr/^(?:eof|reset)$/, 'control ends') for $c, $c2, $c3;

$t->wait_for('the old workers to end', sub { $t->workers == 2 });

($c, $s) = $t->session($server);
($near, $far) = $t->data($c, $s);
$far->finish;
is($near->ended, 'eof', 'new session');

$t->done;
