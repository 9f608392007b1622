#!/usr/bin/perl

# ftp_data_peer any: whoever comes first has the port, once.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    ftp_data_peer any;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(12)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 12)};
        ftp_data zone=ftp;
    }
EOF

my ($c, $s) = $t->session($server);
my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));

my $near = $c->data($port, bind => '127.0.0.2');
my $far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'another address');

is($c->data($port)->ended, 'reset', 'once');

# a port holds one reservation now, whoever asks

my @sessions;
my %ports;

for my $addr ('127.0.0.1', '127.0.0.2', '127.0.0.3') {
    my ($c, $s) = $t->session($server, bind => $addr);
    push @sessions, [$c, $s];
    $ports{$c->passive_port($t->passive($c, $s, $listener))}++;
}

is(scalar keys %ports, 3, 'different ports');

my ($c4, $s4) = $t->session($server, bind => '127.0.0.4');
like($t->passive($c4, $s4, $listener), qr/\A425 /, 'none left');
ok($t->wait_log(qr/\[error\].*no free port for .* in zone "ftp"/), 'logged');

ok(!$listener->touched, 'server untouched');

$t->done;
