#!/usr/bin/perl

# A worker is killed: its waiting reservations are given back, sessions of the
# other worker live on, and nothing stays locked.

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
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(13)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 13)};
        ftp_data zone=ftp;
    }
EOF

my ($doomed, $other) = $t->workers;
my $listener = $server->passive;

# two ports wait in the one that will die, a third is being used there by a
# session of the other

my @dead = map { $t->only_worker($doomed, sub { [$t->session($server)] }) } 1, 2;
my @live = map { $t->only_worker($other, sub { [$t->session($server)] }) } 1, 2;

my @stale = map { $_->[0]->passive_port($t->passive(@$_, $listener)) } @dead;

my $port = $live[0][0]->passive_port($t->passive(@{ $live[0] }, $listener));
my $cut = $t->only_worker($doomed, sub {
    my $near = $live[0][0]->data($port);
    $t->worker_of($near);
    return $near;
});
my $far = $listener->accept;

# and a transfer in the one that lives

my $kept_port = $live[1][0]->passive_port($t->passive(@{ $live[1] }, $listener));
my $kept = $t->only_worker($other, sub {
    my $near = $live[1][0]->data($kept_port);
    $t->worker_of($near);
    return $near;
});
my $kept_far = $listener->accept;

# the range is full

my ($c, $s) = $t->only_worker($other, sub { $t->session($server) });
like($t->passive($c, $s, $listener), qr/\A425 /, 'range full');

my $new = $t->kill_worker($doomed);
ok($new, 'new worker');

# its sessions are gone

like($_->[0]->ended, qr/^(?:eof|reset)$/, 'its sessions end') for @dead;

# the others go on

is($t->dialog(@{ $live[0] }, NOOP => '200 ok'), '', 'other session');
$kept_far->send('kept');
$kept_far->finish;
is($kept->rest, 'kept', 'other transfer');
is($kept->ended, 'eof', 'other transfer ends');

# what the dead one had is free again: both waiting and the taken one

for my $n (1 .. 3) {
    my ($c, $s) = $t->session($server);
    my $reply;

    $t->wait_for('a port', sub {
        $reply = $t->passive($c, $s, $listener);
        return $reply !~ /\A425 /;
    });

    my $near = $c->data($c->passive_port($reply));
    my $far = $listener->accept;
    $far->send("port $n");
    is($near->bytes(6), "port $n", 'port given back');
    push @live, [$c, $s, $near, $far];
}

# killed again and again while ports are reserved and used

for my $round (1 .. 6) {
    $_->[2] && $_->[2]->close for @live;
    $t->kill_worker(($t->workers)[$round % 2]);

    my ($c, $s) = $t->session($server);
    my $reply;

    $t->wait_for('a port', sub {
        $reply = $t->passive($c, $s, $listener);
        return $reply !~ /\A425 /;
    });

    my $near = $c->data($c->passive_port($reply));
    my $far = $listener->accept;
    $far->send('x');
    $far->finish;
    is($near->rest, 'x', "after kill $round");
}

# killed while it writes to the table

for my $round (1 .. 20) {
    my ($worker) = $t->workers;
    my ($c, $s) = $t->only_worker($worker, sub { $t->session($server) });

    $c->send("PASV\r\n" x 300);
    $s->bytes(6 * 300);
    $s->write_some("227 (${\$listener->hostport})\r\n" x 300);
    $c->line;
    $t->kill_worker($worker);
}

my @last = map { [$t->session($server)] } 1 .. 4;
my %last;

for my $pair (@last) {
    my $reply;

    $t->wait_for('a port', sub {
        $reply = $t->passive(@$pair, $listener);
        return $reply !~ /\A425 /;
    });

    $last{$pair->[0]->passive_port($reply)}++;
}

is(scalar keys %last, 4, 'every port is free');

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by \d+/);
