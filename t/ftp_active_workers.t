#!/usr/bin/perl

# Active mode between workers: control and data in different ones, a reload
# between PORT and the server's connection, and workers that are killed.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

my $conf = <<"EOF";
    ftp_client_mode any;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(13)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 13)};
        ftp_data zone=ftp;
    }
EOF

$t->run($conf);

my @workers = $t->workers;

# The server's connection, accepted by that worker.
sub dial_worker {
    my ($worker, $s, @told) = @_;

    return $t->only_worker($worker, sub {
        my $far = $t->dial($s, @told);
        $t->worker_of($far);
        return $far;
    });
}

for my $control (0, 1) {
    my ($c, $s) = $t->only_worker($workers[$control], sub {
        $t->session($server);
    });

    for my $data (0, 1) {
        for my $way ('download', 'upload') {
            my $name = "control $control data $data $way";
            my $listener = $t->server;
            my $far = dial_worker($workers[$data], $s,
                $t->active($c, $s, $listener));
            my $near = $listener->accept;
            is($t->worker_of($near), $workers[$data], "$name worker");

            my ($from, $to) = $way eq 'upload' ? ($near, $far) : ($far, $near);
            $from->send('x' x 100_000);
            $from->finish;
            is(length $to->rest, 100_000, "$name bytes");
            is($to->ended, 'eof', "$name end");
            is($from->ended, 'eof', "$name other end");
        }
    }
}

# a reload between PORT and the server's connection, and during a transfer

for my $command ('PORT', 'EPRT') {
    my ($c, $s) = $t->session($server);
    my ($near, $far) = $t->active_data($c, $s, $command);
    my $listener = $t->server;
    my @told = $t->active($c, $s, $listener, $command);

    $t->reload;

    $far->send('old');
    $far->finish;
    is($near->rest, 'old', "$command transfer over a reload");
    is($near->ended, 'eof', "$command transfer over a reload ends");

    $far = $t->dial($s, @told);
    $near = $listener->accept;
    $near->send('new');
    $near->finish;
    is($far->rest, 'new', "$command port over a reload");
    is($far->ended, 'eof', "$command port over a reload ends");

    ($near, $far) = $t->active_data($c, $s, $command);
    $far->send('more');
    is($near->bytes(4), 'more', "$command old control");
}

$t->wait_for('the old workers to end', sub { $t->workers == 2 });

# a worker is killed in the middle of a transfer of the other's session, and
# while it dials: resets on both legs, what it held is free again

for my $way ('download', 'upload', 'dialling') {
    my ($doomed, $other) = $t->workers;
    my ($c, $s) = $t->only_worker($other, sub { $t->session($server) });
    my $listener = $t->server(backlog => 1);
    my @fill = $way eq 'dialling'
        ? map { Test::Nginx::FtpClient->connect(port => $listener->port) } 1, 2
        : ();
    my $far = dial_worker($doomed, $s, $t->active($c, $s, $listener));

    if (@fill) {
        $t->wait_log(qr/ftp matched port \d+, target 127\.0\.0\.1:${\$listener->port}\b/);
        $t->kill_worker($doomed);
        is($far->ended, 'reset', "$way server");

    } else {
        my $near = $listener->accept;
        my ($from, $to) = $way eq 'upload' ? ($near, $far) : ($far, $near);
        $from->send('part');
        is($to->bytes(4), 'part', "$way bytes");
        $t->kill_worker($doomed);
        is($near->ended, 'reset', "$way client");
        is($far->ended, 'reset', "$way server");
    }

    is($t->dialog($c, $s, NOOP => '200 okay'), '', "$way control lives");
}

# one that waits in a killed worker is given back

my ($doomed) = $t->workers;
my @waiting = map { $t->only_worker($doomed, sub { [$t->session($server)] }) }
    1 .. 3;
my @stale = map { [$t->active(@$_, $t->server)] } @waiting;

$t->kill_worker($doomed);

my %ports;
my @last = map { [$t->session($server)] } 1 .. 4;

for my $pair (@last) {
    my $listener = $t->server;
    my @told;

    $t->wait_for('a port', sub {
        $pair->[0]->command($t->active_command($listener));
        my $reply = $pair->[1]->line;
        @told = $t->told($reply);
        $pair->[1]->send("200 okay\r\n");
        return $pair->[0]->line eq "200 okay\r\n";
    });

    $ports{$told[1]}++;
}

is(scalar keys %ports, 4, 'every port is free');

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by \d+/);
