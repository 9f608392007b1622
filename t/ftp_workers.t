#!/usr/bin/perl

# Control and data in different workers.

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
    }
EOF

my @workers = $t->workers;
my $listener = $server->passive;

for my $control (0, 1) {
    my ($c, $s) = $t->only_worker($workers[$control], sub {
        $t->session($server);
    });

    for my $data (0, 1) {
        my $name = "control $control data $data";
        my $port = $c->passive_port($t->passive($c, $s, $listener));

        my $near = $t->only_worker($workers[$data], sub {
            my $near = $c->data($port);
            $t->worker_of($near);
            return $near;
        });

        my $far = $listener->accept;

        is(join(' ', map { $t->worker_of($_) } $c, $near),
            join(' ', @workers[$control, $data]), $name);

        # a stranger learns nothing from either

        is($c->data($port)->ended, 'reset', "$name second");

        $near->send('up');
        is($far->bytes(2), 'up', "$name upload");
        $far->send('down');
        $far->finish;
        is($near->rest, 'down', "$name download");
        is($near->ended, 'eof', "$name end");
    }

    # what waits dies with the control connection, wherever it is looked for

    my $port = $c->passive_port($t->passive($c, $s, $listener));
    $t->new_log(qr/released port $port\b/, sub { $c->close });

    for my $worker (@workers) {
        my $stale = $t->only_worker($worker, sub {
            my $stale = Test::Nginx::FtpClient->connect(port => $port);
            $stale->ended;
            return $stale;
        });
        is($stale->{end}, 'reset', "control $control dead port");
    }
}

# a live transfer in one worker, its control connection ends in the other

my ($c, $s) = $t->only_worker($workers[0], sub { $t->session($server) });
my $port = $c->passive_port($t->passive($c, $s, $listener));
my $near = $t->only_worker($workers[1], sub {
    my $near = $c->data($port);
    $t->worker_of($near);
    return $near;
});
my $far = $listener->accept;

$c->finish;
is($s->ended, 'eof', 'control ends');
is($c->ended, 'eof', 'control ended');
$far->send('still here');
$far->finish;
is($near->rest, 'still here', 'transfer goes on');
is($near->ended, 'eof', 'transfer ends');

ok(!$listener->touched, 'server untouched');

$t->done;
