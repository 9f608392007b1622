#!/usr/bin/perl

# Who may use a data port: the client of the reservation, once.  Everybody
# else is reset, and the server never hears of it.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    log_format ftp '\$remote_addr \$status \$ftp_data_status';
    limit_conn_zone \$binary_remote_addr zone=addr:1m;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        limit_conn addr 1;
        access_log logs/access.log ftp;
    }
EOF

my ($c, $s) = $t->session($server);
my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));

# a stranger

my $stranger = $c->data($port, bind => '127.0.0.2');
is($stranger->ended, 'reset', 'stranger reset');
ok($t->wait_log(qr/\[info\].*ftp refused port $port: not reserved.*client: 127\.0\.0\.2/),
    'stranger logged');

# one that speaks first

$stranger = $c->data($port, bind => '127.0.0.2', before => 'hello');
is($stranger->ended, 'reset', 'talking stranger reset');

# a port that nobody reserved

my ($free) = grep { $_ != $port } map { $t->port($_) } 10, 11;
is($c->data($free)->ended, 'reset', 'unreserved reset');
ok($t->wait_log(qr/\[info\].*ftp refused port $free: not reserved/),
    'unreserved logged');

ok(!$listener->touched, 'server untouched');

# the client itself still can

my $near = $c->data($port);
my $far = $listener->accept;
is($far->peer_addr, '127.0.0.1', 'its own client');

# but once only, during the transfer and after it

is($c->data($port)->ended, 'reset', 'second connection reset');

$far->send('x');
$near->send('y');
is($near->bytes(1) . $far->bytes(1), 'xy', 'first one lives');
$far->finish;
is($near->ended, 'eof', 'first one ends');
$near->close;

is($c->data($port)->ended, 'reset', 'third connection reset');
ok(!$listener->touched, 'one connection to the server');

# limit_conn did not count the strangers

$port = $c->passive_port($t->passive($c, $s, $listener));
is($c->data($port, bind => '127.0.0.2')->ended, 'reset', 'stranger again');
$near = $c->data($port);
$far = $listener->accept;
$far->send('x');
is($near->bytes(1), 'x', 'limit not used up');

# but counts whom it should: a second transfer at the same time

my ($c2, $s2) = $t->session($server);
my $port2 = $c2->passive_port($t->passive($c2, $s2, $listener));
is($c2->data($port2)->ended, 'reset', 'limit_conn resets');
ok($t->wait_log(qr/limiting connections/), 'limit_conn logged');
ok(!$listener->touched, 'limit_conn before the server');

$far->close;
$near->rest;

# two clients with the same port at the same time: each gets its own target

my ($a, $sa) = $t->session($server, bind => '127.0.0.3');
my ($b, $sb) = $t->session($server, bind => '127.0.0.4');
my ($la, $lb) = map { $server->passive } 1, 2;
my ($pa, $pb) = (0, 1);

for (1 .. 500) {
    $pa = $a->passive_port($t->passive($a, $sa, $la));
    $pb = $b->passive_port($t->passive($b, $sb, $lb));
    last if $pa == $pb;
}

is($pa, $pb, 'same port');

my $da = $a->data($pa);
my $db = $b->data($pb);
my ($fa, $fb) = ($la->accept, $lb->accept);
$fa->send('for a');
$fb->send('for b');
$_->finish for $fa, $fb;
is($da->rest . $db->rest, 'for afor b', 'each its own');

my @lines = $t->wait_access(9);
is(scalar(grep { /^127\.0\.0\.2 \S+ refused/ } @lines), 3, 'refused in log');

$t->done;
