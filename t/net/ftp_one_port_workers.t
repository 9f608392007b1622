#!/usr/bin/perl

# One redirected port and two workers, which need not be the same for control
# and data; and a reload between the reply and the data connection.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;
my %server = map { $_ => $t->server(addr => $t->address('server', $_)) } 4, 6;

$t->run(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20099;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen [::]:21;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{6}->at};
    }

    server {
        listen 10000;
        listen [::]:10000;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (), '20000-20099',
        10000);

    for my $family (4, 6) {
        workers("$form IPv$family", $family);
        reloaded("$form IPv$family", $family);
    }
}

$t->done;

sub workers {
    my ($name, $family) = @_;

    my $at = $t->address('proxy', $family);
    my $listener = $server{$family}->passive;
    my @workers = $t->workers;

    for my $control (0, 1) {
        my ($c, $s) = $t->only_worker($workers[$control], sub {
            $t->session($server{$family}, addr => $at);
        });

        for my $data (0, 1) {
            my $port = $c->passive_port(
                $t->passive($c, $s, $listener, 'EPSV'));

            my $near = $t->only_worker($workers[$data], sub {
                my $near = $c->data($port);
                $t->worker_of($near);
                return $near;
            });

            my $far = $listener->accept;

            is(join(' ', map { $t->worker_of($_) } $c, $near),
                join(' ', @workers[$control, $data]),
                "$name control $control data $data");
            is($t->transfer($c, $s, $data ? 'upload' : 'download', $near, $far), '',
                "$name control $control data $data bytes");
        }

        $_->close for $c, $s;
    }

    return;
}

sub reloaded {
    my ($name, $family) = @_;

    my $listener = $server{$family}->passive;
    my ($c, $s) = $t->session($server{$family},
        addr => $t->address('proxy', $family));
    my ($near, $far) = $t->data($c, $s, 'EPSV');
    my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));

    $far->send('before');
    is($near->bytes(6), 'before', "$name transfer begins");

    my %new = map { $_ => 1 } $t->reload;

    my $late = $c->data($port);
    my $peer = $listener->accept;
    ok($new{$t->worker_of($late)}, "$name new worker");
    is($t->transfer($c, $s, 'upload', $late, $peer), '', "$name old reservation");
    is($t->transfer($c, $s, 'download', $near, $far), '', "$name old transfer");
    is($t->both_ways($c, $s, 'EPSV'), '', "$name old session");
    is($c->data(10000)->ended, 'reset', "$name straight");

    # the old workers have nothing more to do

    $_->close for $c, $s;
    ok($t->wait_for('old workers to end', sub { $t->workers == 2 }),
        "$name old workers end");

    return;
}
