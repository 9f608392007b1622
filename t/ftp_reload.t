#!/usr/bin/perl

# A reload with live sessions: control and data in old workers go on, and a
# port reserved by an old worker is served by a new one.

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

# three sessions: one idle, one with a waiting port, one in a transfer

my $listener = $server->passive;
my ($c1, $s1) = $t->session($server);
my ($c2, $s2) = $t->session($server);
my ($c3, $s3) = $t->session($server);

my $port = $c2->passive_port($t->passive($c2, $s2, $listener));
my ($near, $far) = $t->data($c3, $s3);
$far->send('before ');
is($near->bytes(7), 'before ', 'transfer begins');

my @new = $t->reload;

is(@new, 2, 'new workers');

# the port that an old worker reserved

my $late = $c2->data($port);
my $peer = $listener->accept;
my $worker = $t->worker_of($late);
ok(scalar(grep { $_ == $worker } @new), 'new worker takes it');
$peer->send('late');
$peer->finish;
is($late->rest, 'late', 'old reservation');

# the transfer

$far->send('after');
$far->finish;
is($near->rest, 'after', 'old transfer');
is($near->ended, 'eof', 'old transfer ends');

# old sessions reserve for new workers

for my $pair ([$c1, $s1], [$c2, $s2], [$c3, $s3]) {
    my ($near, $far) = $t->data(@$pair);
    $near->send('again');
    $near->finish;
    is($far->rest, 'again', 'old session');
}

# and new sessions know of their ports

my ($c4, $s4) = $t->session($server);
my %ports;

for my $pair ([$c1, $s1], [$c2, $s2], [$c3, $s3], [$c4, $s4]) {
    $ports{$pair->[0]->passive_port($t->passive(@$pair, $listener))}++;
}

is(scalar keys %ports, 4, 'one table');

# once more, and then they go

$t->reload;
is($t->dialog($c1, $s1, NOOP => '200 ok'), '', 'second reload');

my ($old) = sort keys %ports;
$_->close for $c1, $c2, $c3, $c4;

$t->wait_for('the old workers to end', sub { $t->workers == 2 });
is(Test::Nginx::FtpClient->connect(port => $old)->ended, 'reset',
    'ports are free');

$t->done;
