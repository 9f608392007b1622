#!/usr/bin/perl

# Several servers behind one zone, several zones in one nginx, and the data
# servers before and after them.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my @servers = map { $t->server(addr => "127.0.0.$_") } 1 .. 3;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->range(10, 12)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(15)};
        proxy_pass ${\$servers[0]->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        proxy_pass ${\$servers[1]->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=two:1m min_port=${\$t->port(20)} max_port=${\$t->port(20)};
        proxy_pass ${\$servers[2]->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(13, 15)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->port(20)};
        ftp_data zone=two;
    }
EOF

# one range for two servers

my (@sessions, %ports);

for my $i (0, 1, 0, 1, 0, 1) {
    my ($c, $s) = $t->session($servers[$i], port => $t->port($i));
    my $listener = $servers[$i]->passive;
    my $port = $c->passive_port($t->passive($c, $s, $listener));

    $ports{$port}++;
    push @sessions, [$i, $c, $s, $listener, $port];
}

is(join(' ', sort keys %ports), join(' ', map { $t->port($_) } 10 .. 15),
    'one range');

for my $session (@sessions) {
    my ($i, $c, $s, $listener, $port) = @$session;
    my $near = $c->data($port);
    my $far = $listener->accept;

    is($far->local_addr, '127.0.0.' . ($i + 1), 'its own server');
    $far->send("from $i");
    $far->finish;
    is($near->rest, "from $i", 'its own data');
    $c->close;
}

# the other zone

my ($c, $s) = $t->session($servers[2], port => $t->port(2));
my $listener = $servers[2]->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));
is($port, $t->port(20), 'range of one port');

my $near = $c->data($port);
my $far = $listener->accept;
$far->send('two');
$far->finish;
is($near->rest, 'two', 'its data');

# zones know nothing of each other

$port = $c->passive_port($t->passive($c, $s, $listener));
is($c->data($t->port(10))->ended, 'reset', 'another zone');
ok(!$listener->touched, 'server untouched');

$t->done;
