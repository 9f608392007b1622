#!/usr/bin/perl

# The end of a TLS leg whose socket has no room for close_notify: small buffers,
# and a network that takes the answers away, so that what was sent stays there.

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
my $dir = $t->dir;

# of sockets that begin from now on
$t->sysctl('ipv4/tcp_wmem', '4096 4096 4096');

$t->run(<<"EOF");
    $certificates
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    log_format data '\$ftp_data_status';

    server {
        listen 203.0.113.5:21;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=10009;
        ftp_auth_tls on;
        ftp_proxy_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 203.0.113.5:10000-10009;
        ftp_data zone=ftp;
        access_log logs/data.log data;
    }
EOF

my $lines = 0;

for my $version (1.2, 1.3) {
    my $context = $tls->context(cert => [map { "$dir/server.$_" } 'crt', 'key'],
        version => $version);
    my $c = $t->connect(addr => '203.0.113.5', port => 21);
    my $s = $tls->accept($server, context => $context, explicit => 1);

    is($c->line, "220 ready\r\n", "$version greeting");
    $tls->auth($c, version => $version);
    is($t->dialog($c, $s, 'USER u' => '230 in', 'PBSZ 0' => '200 okay',
        'PROT P' => '200 private'), '', "$version PROT P");

    for my $verb ('STOR', 'RETR') {
        for my $size (5_000, 9_000, 16_000) {
            my $name = "$version $verb $size";
            my $listener = $t->server;
            my $near = $t->connect(addr => '203.0.113.5',
                port => $c->passive_port($t->passive($c, $s, $listener, 'EPSV')));
            my $far = $listener->accept;

            is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$name 150");
            ok($tls->serve($far, context => $context)->handshake,
                "$name server's handshake");
            ok($tls->secure($near, version => $version), "$name client's handshake");

            my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);

            # a byte, so that what the handshakes leave behind has arrived
            $from->send('x');
            is($to->bytes(1), 'x', "$name first byte");

            $t->mute($to);
            $from->send('x' x $size);
            $from->finish;

            # the session is over, but for what the socket has no room for
            is(($t->wait_access(++$lines, 'logs/data.log'))[-1], 'complete',
                "$name status");

            $t->mute;
            is(length $to->rest, $size, "$name bytes");
            is($to->{end}, 'eof', "$name close_notify and FIN");
            is($from->ended, 'eof', "$name other end");

            $s->send("226 done\r\n");
            is($c->line, "226 done\r\n", "$name 226");
        }
    }
}

$t->done;
