#!/usr/bin/perl

# A binary upgrade (USR2, WINCH): the new processes have a table of their own.
# Transfers and control connections of the old ones go on; a port that an old
# worker reserves is unknown to the new ones, and is refused cleanly.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

my $conf = <<"EOF";
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

$t->run($conf, daemon => 1);

my $listener = $server->passive;
my ($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);
my ($c2, $s2) = $t->session($server);
my $port = $c2->passive_port($t->passive($c2, $s2, $listener));

$far->send('before ');
is($near->bytes(7), 'before ', 'transfer begins');

$t->upgrade;

# what is kept

$far->send('after');
$far->finish;
is($near->rest, 'after', 'transfer goes on');
is($near->ended, 'eof', 'transfer ends');
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'control goes on');

# what is not

is($c2->data($port)->ended, 'reset', 'old reservation');
ok(!$listener->touched, 'server untouched');

# new sessions

my ($c3, $s3) = $t->session($server);

for (1 .. 5) {
    ($near, $far) = $t->data($c3, $s3);
    $near->send('new');
    $near->finish;
    is($far->rest, 'new', 'new session');
}

$_->close for $c, $s, $c2, $s2, $c3, $s3;

# The old master leaves, with a reload behind it that had failed: the sockets
# that it shares with the new one stay what they are.  What a killed worker cuts
# is reset.

$t->stop;
$t->run($conf, daemon => 1);

my $occupied = $t->server(port => $t->port(50));

$t->write_file('nginx.conf', $t->conf(<<"EOF"));
$conf
    server {
        listen 127.0.0.1:${\$t->port(50)};
        proxy_pass ${\$server->at};
    }
EOF

$t->new_log(qr/still could not bind/, sub { kill HUP => $t->{master} });
$t->write_file('nginx.conf', $t->conf($conf, daemon => 1));
$t->upgrade;

my $old = $t->{master};
kill QUIT => $old;
$t->wait_for('the old master to leave', sub { !-d "/proc/$old" });
$t->{master} = delete $t->{second};

($c, $s) = $t->session($server);
($near, $far) = $t->data($c, $s);
$far->send('part');
is($near->bytes(4), 'part', 'new master');
$t->kill_worker($t->worker_of($near));
is($near->ended, 'reset', 'cut by the new master');

$t->done(allow => qr/bind\(\)\ to|still\ could\ not\ bind
    |exited\ on\ signal\ 9|was\ locked\ by/x);
