#!/usr/bin/perl

# proxy_ip: an address no interface has, a variable, one that yields nothing,
# and the default.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $range = "min_port=${\$t->port(10)} max_port=${\$t->port(20)}";

$t->run(<<"EOF");
    map \$remote_addr \$public {
        127.0.0.1  203.0.113.5;
        127.0.0.2  198.51.100.7;
        127.0.0.3  2001:db8::1;
        127.0.0.4  nonsense;
        default    "";
    }

    server {
        listen ${\$t->port(0)};
        ftp_ctrl zone=ftp:1m $range;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp $range proxy_ip=203.0.113.5;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=ftp $range proxy_ip=\$public;
        proxy_pass ${\$server->at};
    }

    server {
        listen ${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

# the address that the client reached

address('default', 0, '127.0.0.1', addr => '127.0.0.1');
address('default second', 0, '127.0.0.9', addr => '127.0.0.9');

# one of the admin

address('fixed', 1, '203.0.113.5');
address('variable', 2, '203.0.113.5', bind => '127.0.0.1');
address('variable second', 2, '198.51.100.7', bind => '127.0.0.2');

# none

for my $n (3, 4, 5) {
    my ($c, $s) = $t->session($server, port => $t->port(2),
        bind => "127.0.0.$n");

    my $listener = $server->passive;
    like($t->passive($c, $s, $listener), qr/\A425 [^\r\n]+\r\n\z/, "none $n");
    is($t->dialog($c, $s, NOOP => '200 in step'), '', "none $n in step");

    # EPSV needs none
    my ($near, $far) = $t->data($c, $s, 'EPSV');
    $far->send('x');
    $far->finish;
    is($near->rest, 'x', "none $n EPSV");
}

is($t->lines(qr/\[error\].*proxy_ip/), 3, 'logged');

$t->done;

sub address {
    my ($name, $n, $expected, %arg) = @_;

    my ($c, $s) = $t->session($server, port => $t->port($n), %arg);
    my $listener = $server->passive;
    my $reply = $t->passive($c, $s, $listener);

    is($c->passive_addr($reply), $expected, $name);

    my $near = $c->data($c->passive_port($reply));
    my $far = $listener->accept;
    $near->send('x');
    $near->finish;
    is($far->rest, 'x', "$name data");
}
