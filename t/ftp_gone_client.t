#!/usr/bin/perl

# A client that leaves its data connection before nginx gets to it, as curl
# does when SIZE is refused: the server, which has stopped listening by then,
# is not to blame.

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

my %leaves = (
    'closes'           => sub { $_[0]->close },
    'resets'           => sub { $_[0]->reset },
    'sends and closes' => sub { $_[0]->send("hello\r\n"); $_[0]->close },
);

my ($c, $s) = $t->session($server);
my $accusation = 'no data connection to';

for my $how (sort keys %leaves) {
    my $port = nobody_listens();
    my $finished = $t->new_log("ftp finished port $port ", sub {
        asleep(sub { $leaves{$how}->($c->data($port)) });
    });
    like($finished, qr/: cut$/m, "$how, finished");
    is(scalar $t->lines($accusation), 0, "$how, nobody to blame");
}

my $near;
my $port = nobody_listens();
$t->new_log("ftp finished port $port ", sub {
    asleep(sub { $near = $c->data($port) });
});
is($near->ended, 'reset', 'stays, reset');
is(scalar $t->lines("\\[error\\].*$accusation"), 1, 'stays, the server');

$t->done;

# The client's port for a server that has stopped listening.
sub nobody_listens {
    my $listener = $t->server;
    my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));

    $listener->close;

    return $port;
}

# Runs the code while no worker looks.
sub asleep {
    my ($code) = @_;

    my ($first, $second) = $t->workers;

    $t->paused($first, sub { $t->paused($second, $code) });

    return;
}
