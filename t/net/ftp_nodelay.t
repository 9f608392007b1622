#!/usr/bin/perl

# tcp_nodelay on the connection to the server, which gets it with the first byte
# of an upload: a second small piece goes out though nobody has acknowledged the
# first.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::FtpNet->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

$t->run(<<"EOF");
    $certificates

    server {
        listen 203.0.113.5:21;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=10009;
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 203.0.113.5:10000-10009;
        ftp_data zone=ftp;
    }
EOF

for my $private (0, 1) {
    my $name = $private ? 'TLS' : 'plain';
    my $c = $t->connect(addr => '203.0.113.5', port => 21);
    my $s = $server->accept;

    $s->send("220 ready\r\n");
    is($c->line, "220 ready\r\n", "$name greeting");

    if ($private) {
        $tls->auth($c);
        is($c->protect, '', "$name PROT P");
    }

    my $listener = $t->server;
    my $near = $t->connect(addr => '203.0.113.5',
        port => $c->passive_port($t->passive($c, $s, $listener, 'EPSV')));
    my $far = $listener->accept;

    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "$name 150");
    ok($tls->secure($near), "$name handshake") if $private;

    $t->mute($far);

    for my $byte ('a' .. 'c') {
        $near->send($byte);
        is($far->bytes(1), $byte, "$name $byte");
    }

    $t->mute;
    $near->finish;
    is($far->ended, 'eof', "$name end");

    $_->close for $c, $s;
}

$t->done;
