#!/usr/bin/perl

# A reload that changes who may use a port: it holds for new reservations, and
# live ones do no harm.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(config('same'));

my $listener = $server->passive;

for my $peer ('any', 'same', 'any', 'same') {
    # waits over the reload

    my ($c, $s) = $t->session($server);
    my ($near, $far) = $t->data($c, $s);
    my $port = $c->passive_port($t->passive($c, $s, $listener));

    $t->reload(config($peer));

    $far->send('old');
    $far->finish;
    is($near->rest, 'old', "to $peer transfer");

    $near = $c->data($port);
    $far = $listener->accept;
    $far->send('waited');
    $far->finish;
    is($near->rest, 'waited', "to $peer waiting port");
    $_->close for $c, $s;

    # new ones

    ($c, $s) = $t->session($server);
    $port = $c->passive_port($t->passive($c, $s, $listener));
    $near = $c->data($port, bind => '127.0.0.2');

    if ($peer eq 'any') {
        $far = $listener->accept;
        $far->send('x');
        $far->finish;
        is($near->rest, 'x', 'any stranger');

    } else {
        is($near->ended, 'reset', 'same stranger');
        $near = $c->data($port);
        $far = $listener->accept;
        $far->send('x');
        $far->finish;
        is($near->rest, 'x', 'same client');
    }

    $_->close for $c, $s;
}

ok(!$listener->touched, 'no other connection');

# nothing is left: the range is whole

my %ports;
my @sessions;

for (1 .. 4) {
    my ($c, $s) = $t->session($server);
    my $reply;

    $t->wait_for('a port', sub {
        $reply = $t->passive($c, $s, $listener);
        return $reply !~ /\A425 /;
    });

    $ports{$c->passive_port($reply)}++;
    push @sessions, $c, $s;
}

is(scalar keys %ports, 4, 'whole range');

$t->done;

sub config {
    my ($peer) = @_;

    return <<"EOF";
    ftp_data_peer $peer;

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
}
