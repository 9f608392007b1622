#!/usr/bin/perl

# The harness against itself: client and fake server face to face and through
# a plain stream proxy, without this module.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new->plain;
my $server = $t->server;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        proxy_pass ${\$server->at};
    }
EOF

talk('direct', $server->port);
talk('proxied', $t->port(0));

# a worker of choice

for my $worker ($t->workers) {
    my ($client, $peer) = $t->only_worker($worker, sub {
        $t->session($server);
    });

    is($t->worker_of($client), $worker, 'chosen worker');
}

# reload

my ($client, $peer) = $t->session($server);
my @old = $t->workers;
my @new = $t->reload;

is(@new, 2, 'new workers');
is($t->dialog($client, $peer, NOOP => '200 ok'), '', 'old session');

my ($other, $far) = $t->session($server);
my $worker = $t->worker_of($other);
ok(!grep({ $_ == $worker } @old), 'new session');

$t->done;

sub talk {
    my ($name, $port) = @_;

    my ($c, $s) = $t->session($server, port => $port);

    is($t->dialog($c, $s,
        'USER x' => '331 who',
        'PASS y' => "230-a\r\n230x\r\n 230 b\r\n230 ok"), '', "$name dialog");

    if ($name eq 'proxied') {
        $c->send("NO", "OP\r", "\n");
        is($s->line, "NOOP\r\n", 'segments');

        $s->send_bytewise("200 bytewise\r\n");
        is($c->line, "200 bytewise\r\n", 'bytewise');
    }

    $s->send("1\n2\n");
    is($c->bytes(4), "1\n2\n", "$name bytes");

    $c->finish;
    is($s->ended, 'eof', "$name end");

    ($c, $s) = $t->session($server, port => $port);

    $c->send('tail');
    $s->bytes(4);
    $c->reset;

    # plain nginx makes a clean end of a reset
    is($s->ended, $name eq 'direct' ? 'reset' : 'eof', "$name reset");
}
