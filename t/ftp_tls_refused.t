#!/usr/bin/perl

# Transfers that a server with TLS refuses while its data connection waits for
# a handshake: nobody hangs, no byte comes, the session goes on.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpLegs;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

my $cert = [map { $t->dir . "/server.$_" } 'crt', 'key'];
my $ctrl = "ftp_ctrl zone=ftp:1m min_port=${\$t->port(20)} "
    . "max_port=${\$t->port(59)}; proxy_pass ${\$server->at};";

$t->run(<<"EOF");
    $certificates
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    ftp_proxy_auth_tls on;

    server { listen 127.0.0.1:${\$t->port(0)}; $ctrl ftp_auth_tls on; }
    server { listen 127.0.0.1:${\$t->port(1)} ssl; $ctrl }
    server {
        listen 127.0.0.1:${\$t->range(20, 59)};
        ftp_data zone=ftp;
        proxy_connect_timeout 2s;
    }
EOF

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $server,
    serve  => { cert => $cert, explicit => 1 },
    ports  => { plain => 0, explicit => 0, implicit => 1 },
);

my @replies = (['RETR', '550 no such file'], ['STOR', '553 not here'],
    ['RETR', '522 session reuse required'], ['LIST', '425 no data connection']);

# What the server does with the data connection, hello or not.
my %how = (
    'finish'        => sub { $_[0]->finish },
    'close'         => sub { $_[0]->close },
    'reset'         => sub { $_[0]->reset },
    'alert'         => sub { $_[0]->send("\x15\x03\x03\x00\x02\x02\x28");
        $_[0]->close },
    'half a record' => sub { $_[0]->send("\x16\x03\x03\x00\x50" . 'x' x 20);
        $_[0]->close },
    'text'          => sub { $_[0]->send("550 no such file\r\n");
        $_[0]->close },
    'nothing'       => sub { },
    'TLS and close' => sub { $tls->serve($_[0], cert => $cert)->handshake;
        $_[0]->close },
    'TLS and reset' => sub { $tls->serve($_[0], cert => $cert)->handshake;
        $_[0]->reset },
);

# The others first, those that wait for the timeout together at the end.
my @waiting;

for my $kind ('plain', 'explicit', 'implicit') {
    my $client = $kind ne 'plain';

    for my $version (1.2, 1.3) {
        my $context = $tls->context(cert => $cert, version => $version);
        my %serve = (serve => { context => $context });
        my ($c, $s) = $legs->ready($kind, "$kind $version", %serve);

        for my $how (sort keys %how) {
            for my $reply (@replies) {
                my ($verb, $text) = @$reply;
                my $name = "$kind $version, $text, $how";
                my $listener = $t->server;
                my $near = $c->data($c->passive_port(
                    $t->passive($c, $s, $listener, 'EPSV')));
                my $far = $listener->accept;

                $tls->prepare($near)->send_raw($near->hello) if $client;
                is($t->dialog($c, $s, "$verb f" => $text), '', "$name reply");
                $how{$how}->($far);

                if ($how eq 'nothing') {
                    push @waiting, [$name, $near, $far, $c, $s];
                    next;
                }

                # the client's own goes on behind the server's
                $near->handshake if $how =~ /^TLS/ && $client;

                is($near->rest, '', "$name no bytes");
                ok($near->{end}, "$name end");

                next if !$far->socket;

                $far->rest;
                ok($far->{end}, "$name server's end");
            }
        }

        # nobody listens where it was announced

        my $listener = $t->server;
        my $reply = $t->passive($c, $s, $listener, 'EPSV');
        $listener->close;
        my $near = $c->data($c->passive_port($reply));
        is($near->ended, 'reset', "$kind $version nobody listens");

        $legs->transfer($c, $s, "$kind $version afterwards", $client, 1, 'EPSV',
            $_, %serve) for 'RETR', 'STOR';
        $legs->transfer($c, $s, "$kind $version empty", $client, 1, 'PASV', $_,
            %serve, bytes => '') for 'RETR', 'STOR';
    }
}

for my $waiting (@waiting) {
    my ($name, $near, $far) = @$waiting;

    is($near->ended, 'reset', "$name timeout");
    $far->rest;
    ok($far->{end}, "$name timeout, server");
}

$t->done;
