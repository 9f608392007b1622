#!/usr/bin/perl

# A panic in the module, with the zone locked, ends one session and nothing
# else. Needs a module with the cargo feature "panic-test".

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
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

# two sessions of one worker

my ($worker) = $t->workers;
my ($hit, $other) = map { $t->only_worker($worker, sub { [$t->session($server)] }) } 1, 2;
my $listener = $server->passive;

$t->passive(@$hit, $listener);
$hit->[0]->send("RETR panic\r\n");
ok($hit->[0]->ended, 'session ends');
$t->wait_log(qr/\[alert\].*panic in ftp module at src.*: asked for by a test/);
is($t->lines(qr/\[alert\]/), 1, 'alert names it');

# the worker lives, and so does the zone

my ($near, $far) = $t->data(@$other);
$far->send('alive');
$far->finish;
is($near->rest, 'alive', 'worker lives');
is(join(' ', $t->workers), join(' ', grep { kill 0, $_ } $t->workers), 'all workers');
ok((grep { $_ == $worker } $t->workers), 'same worker');

($near, $far) = $t->data($t->session($server));
$near->send('new');
$near->finish;
is($far->rest, 'new', 'new session');

$t->done(allow => qr/panic in ftp module/);
