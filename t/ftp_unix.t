#!/usr/bin/perl

# Unix sockets: a server on one has no address for data connections (425, unless
# ftp_pasv_trust gives one), a client on one none to come from (425).

use strict;
use warnings;

use FindBin;
use IO::Socket::UNIX;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $path = $t->dir . '/ftp.sock';
my $server = $t->server(path => $path);
my $client = $t->dir . '/client.sock';
my $inet = $t->server;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass unix:$path;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_pasv_trust 127.0.0.0/8;
        proxy_pass unix:$path;
    }

    server {
        listen unix:$client;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$inet->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my $listener = Test::Nginx::FtpServer->new;

my ($c, $s) = $t->session($server);
is($t->dialog($c, $s, 'USER x' => '331 who', 'PASS y' => '230 in'), '',
    'login');
like($t->passive($c, $s, $listener), qr/\A425 [^\r\n]+\r\n\z/, 'PASV');
like($t->passive($c, $s, $listener, 'EPSV'), qr/\A425 [^\r\n]+\r\n\z/, 'EPSV');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'in step');

# with an address that is trusted

($c, $s) = $t->session($server, port => $t->port(1));
my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
my $far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'trusted');

# EPSV still has none

like($t->passive($c, $s, $listener, 'EPSV'), qr/\A425 [^\r\n]+\r\n\z/,
    'trusted EPSV');
ok(!$listener->touched, 'server untouched');

# a client on a unix socket

$c = Test::Nginx::FtpClient->new(IO::Socket::UNIX->new(Peer => $client));
$s = $inet->accept;
$s->send("220 ready\r\n");
is($c->line, "220 ready\r\n", 'unix client');
is($t->dialog($c, $s, 'USER x' => '331 who'), '', 'its login');

for my $command ('PASV', 'EPSV') {
    my $reply = $command eq 'PASV' ? "227 (${\$listener->hostport})"
        : "229 (|||${\$listener->port}|)";

    # whether the server is asked at all is the proxy's business
    $c->send("$command\r\nNOOP\r\n");
    my $line = $s->line;
    if ($line ne "NOOP\r\n") {
        $s->send("$reply\r\n");
        $line = $s->line;
    }
    $s->send("200 ok\r\n");
    like($c->line . $c->line, qr/\A425 [^\r\n]+\r\n200 ok\r\n\z/,
        "its $command");
}

$t->done;
