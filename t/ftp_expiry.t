#!/usr/bin/perl

# ftp_data_timeout: how long a port waits for its connection, in stream and
# in server.

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
    ftp_data_timeout 1s;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(11)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=two:1m min_port=${\$t->port(20)} max_port=${\$t->port(21)};
        ftp_data_timeout 1h;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 11)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(20, 21)};
        ftp_data zone=two;
    }
EOF

my $listener = $server->passive;

# a transfer that began in time may last longer

my ($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);

# one that waits, and one with more patience

my ($c2, $s2) = $t->session($server);
my $port = $c2->passive_port($t->passive($c2, $s2, $listener));
my $start = time;

my ($c3, $s3) = $t->session($server, port => $t->port(1));
my $patient = $c3->passive_port($t->passive($c3, $s3, $listener));

# Both ports of the range are in use; the next one is free when the deadline
# has passed.

my ($c4, $s4) = $t->session($server);
my $reply;

$t->wait_for('a port to expire', sub {
    $reply = $t->passive($c4, $s4, $listener);
    return $reply !~ /\A425 /;
});

is($c4->passive_port($reply), $port, 'port is given again');
cmp_ok(time - $start, '>', 0.5, 'not at once');
ok($t->wait_log(qr/\[info\].*ftp expired port $port of 127\.0\.0\.1/),
    'logged');

# it belongs to the new session only: the old one's end changes nothing

$c2->finish;
$s2->ended;
my $other = $c4->data($port);
my $peer = $listener->accept;
$peer->send('x');
$peer->finish;
is($other->rest, 'x', 'new owner');

# expired and not given again

my ($c5, $s5) = $t->session($server);

$t->wait_for('the port to come back', sub {
    $reply = $t->passive($c5, $s5, $listener);
    return $reply !~ /\A425 /;
});

my $stale = $c5->passive_port($reply);
my $until = time + 1.3;
$t->wait_for('the deadline', sub { time > $until });
is($c5->data($stale)->ended, 'reset', 'expired is refused');
ok($t->wait_log(qr/\[info\].*(?:refused port $stale|expired port $stale)/),
    'refused logged');
ok(!$listener->touched, 'server untouched');
is($t->dialog($c5, $s5, NOOP => '200 ok'), '', 'control lives');

# the others

$far->send('long');
$far->finish;
is($near->rest, 'long', 'transfer outlives it');

$near = $c3->data($patient);
$far = $listener->accept;
$far->send('late');
$far->finish;
is($near->rest, 'late', 'server level');

$t->done;
