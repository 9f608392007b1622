#!/usr/bin/perl

# ftp_pasv_trust: the networks whose addresses in a 227 are believed.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    ftp_pasv_trust 127.0.5.0/24 127.0.6.1;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_pasv_trust off;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=ftp;
        ftp_pasv_trust 127.0.7.0/24;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

# one listener on every address: the connection tells which it was

my $listener = Test::Nginx::FtpServer->new(addr => '0.0.0.0');

target('in the network', 0, '127.0.5.9', '127.0.5.9');
target('single address', 0, '127.0.6.1', '127.0.6.1');
target('beside it', 0, '127.0.6.2', '127.0.0.1');
target('outside', 0, '127.0.4.255', '127.0.0.1');
target('unspecified', 0, '0.0.0.0', '127.0.0.1');
target('off', 1, '127.0.5.9', '127.0.0.1');
target('own list', 2, '127.0.7.1', '127.0.7.1');
target('list replaced', 2, '127.0.5.9', '127.0.0.1');

# a trusted address makes no low port good

my ($c, $s) = $t->session($server);
$c->command('PASV');
$s->line;
$s->send("227 (127,0,5,9,0,22)\r\n");
like($c->line, qr/\A425 /, 'low port');

# EPSV has no address

my ($near, $far) = $t->data($c, $s, 'EPSV');
$far->send('x');
$far->finish;
is($near->rest, 'x', 'EPSV');

$t->done;

sub target {
    my ($name, $n, $announced, $expected) = @_;

    my ($c, $s) = $t->session($server, port => $t->port($n));

    $c->command('PASV');
    $s->line;
    $s->send("227 Passive (${\$listener->hostport($announced)})\r\n");

    my $near = $c->data($c->passive_port($c->line));
    my $far = $listener->accept;

    is($far->local_addr, $expected, $name);
    ok($t->wait_log(qr/ftp matched port \d+, target \Q$expected\E:${\$listener->port}/),
        "$name logged");

    $far->send('x');
    $far->finish;
    is($near->rest, 'x', "$name data");
}
