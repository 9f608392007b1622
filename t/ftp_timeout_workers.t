#!/usr/bin/perl

# A transfer in one worker holds its control connection in the other, until it
# ends, and no longer when its worker is killed.

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
        proxy_timeout 1s;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my ($first, $second) = $t->workers;

# it ends

my ($c, $s, $near, $far) = transfer();
my $until = time + 2.5;
$t->wait_for('more than the timeout', sub { time > $until });
is($c->waiting . $c->{end}, '', 'held');
is($t->dialog($c, $s, STAT => '211 busy'), '', 'and alive');
$far->finish;
is($near->ended, 'eof', 'transfer ends');
is($c->ended, 'eof', 'not held after it');

# two at once

($c, $s, $near, $far) = transfer();
my ($near2, $far2) = $t->data($c, $s);
$far2->finish;
is($near2->ended, 'eof', 'second ends');
$until = time + 2;
$t->wait_for('more than the timeout', sub { time > $until });
is($t->dialog($c, $s, STAT => '211 busy'), '', 'first still holds');
$_->close for $near, $far;
is($c->ended, 'eof', 'neither holds');

# its worker is killed

($c, $s, $near, $far) = transfer();
$t->kill_worker($second);
like($near->ended, qr/^(?:eof|reset)$/, 'transfer dies');
is($c->ended, 'eof', 'the dead hold nothing');

$t->done(allow => qr/worker process \d+ exited on signal 9/);

# Control in the first worker, data in the second.
sub transfer {
    my ($c, $s) = $t->only_worker($first, sub { $t->session($server) });
    my $listener = $server->passive;
    my $port = $c->passive_port($t->passive($c, $s, $listener));

    my $near = $t->only_worker($second, sub {
        my $near = $c->data($port);
        $t->worker_of($near);
        return $near;
    });

    return ($c, $s, $near, $listener->accept);
}
