#!/usr/bin/perl

# Implicit TLS toward the server: its control connection with proxy_ssl on, its
# data connections as PROT has agreed, whoever has sent that.

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
my $plain = $t->server;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] }
    'server', 'client', 'stranger';

my $verify = "proxy_ssl_verify on; proxy_ssl_trusted_certificate $dir/ca.crt; "
    . 'proxy_ssl_server_name on;';

sub ctrl {
    my ($port, $zone, $from, $more) = @_;

    return <<"END";
    server {
        listen 127.0.0.1:${\$t->port($port)} $more
        ftp_ctrl zone=$zone:1m min_port=${\$t->port($from)} max_port=${\$t->port($from + 9)};
    }
END
}

my $to = "proxy_ssl on; proxy_pass ${\$server->at};";

$t->run(<<"EOF");
    $certificates
    upstream server { server ${\$server->at}; }
${\ctrl(0, 'ftp', 10, "; ftp_auth_tls on; $to")}
${\ctrl(1, 'ftp', 10, "ssl; $to")}
${\ctrl(2, 'ftp', 10, "; ftp_auth_tls on; proxy_pass ${\$plain->at};")}
${\ctrl(3, 'given', 20, "; ftp_auth_tls on; $to $verify proxy_ssl_name server;")}
${\ctrl(4, 'found', 30, "; proxy_ssl on; proxy_pass server; $verify")}
    server {
        listen 127.0.0.1:${\$t->range(10, 19)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(20, 29)};
        ftp_data zone=given;
        $verify
        proxy_ssl_name server;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 39)};
        ftp_data zone=found;
        $verify
    }
EOF

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $server,
    serve  => { cert => $cert{server} },
    ports  => { plain => 0, explicit => 0, implicit => 1 },
);

# a plain client

{
    my ($c, $s) = $legs->session('plain');

    $legs->login($c, $s, 'plain', '200 private');
    $legs->transfers($c, $s, 'plain', 0, 1);

    # not once more
    is($t->dialog($c, $s, 'USER other' => '230 in', NOOP => '200 okay'), '',
        'second login');
    $legs->transfer($c, $s, 'second login', 0, 1, 'EPSV', 'RETR');

    # the client's own are for TLS of its own
    for my $command ('PBSZ 0', 'PROT P', 'PROT C') {
        $c->command($command);
        like($c->line, qr/^503 /, "$command in clear");
    }

    $legs->transfer($c, $s, 'PROT C in clear', 0, 1, 'EPSV', 'RETR');
}

# the proxy's own commands do not wait for the client's next one

{
    my ($c, $s) = $legs->session('plain');

    is($t->dialog($c, $s, 'USER u' => '230 in'), '', 'idle login');
    is($s->line, "$_\r\n", "$_ at once") for 'PBSZ 0', 'PROT P';
}

# commands around the proxy's own

{
    my ($c, $s) = $legs->session('plain');

    $c->send("USER u\r\nPASS p\r\nPWD\r\n");
    is($s->line, "$_\r\n", "pipelined $_") for 'USER u', 'PASS p', 'PWD';
    $s->send("331 password\r\n230-welcome\r\n230 in\r\n");
    is($c->line, "331 password\r\n", 'pipelined 331');
    is($c->reply, "230-welcome\r\n230 in\r\n", 'pipelined 230');

    $c->command('SYST');
    is($s->line, "$_\r\n", "$_ behind the pipelined")
        for 'PBSZ 0', 'PROT P', 'SYST';
    $s->send("257 \"/\"\r\n200-zero\r\n200 it is\r\n200 private\r\n215 UNIX\r\n");
    is($c->line, "257 \"/\"\r\n", 'answer before');
    is($c->line, "215 UNIX\r\n", 'answer behind');
    $legs->transfers($c, $s, 'pipelined', 0, 1);
}

{
    my ($c, $s) = $legs->session('plain');

    $c->send("USER u\r\nPWD\r\n");
    is($s->line, "$_\r\n", "no password $_") for 'USER u', 'PWD';
    $s->send("230 in\r\n257 \"/\"\r\n");
    is($c->line, "$_\r\n", "no password $_") for '230 in', '257 "/"';
    $c->command('SYST');
    is($s->line, "$_\r\n", "no password $_") for 'PBSZ 0', 'PROT P', 'SYST';

    # a goodbye is nobody's answer
    $s->send("421 timeout\r\n");
    is($c->line, "421 timeout\r\n", '421 instead of 200');
    $s->finish;
    is($c->ended, 'eof', 'end behind 421');
}

# a server that refuses

{
    my ($c, $s) = $legs->session('plain');

    my $line = $t->new_log(qr/server refused "PROT P" with 534/, sub {
        $legs->login($c, $s, 'refused', '534 no');
    });
    like($line, qr/\[error\]/, 'refusal is an error');
    $legs->transfers($c, $s, 'refused', 0, 0);
}

{
    my ($c, $s) = $legs->session('plain');

    is($t->dialog($c, $s, 'USER u' => '331 password', 'PASS p' => '530 no',
        NOOP => '200 okay'), '', 'no login, no PROT');
}

# TLS on both legs: the server's answer decides

for my $kind ('explicit', 'implicit') {
    my $implicit = $kind eq 'implicit';
    my ($c, $s) = $legs->session($kind);

    # implicit clients have private data connections without a word about it:
    # the proxy asks for them
    if ($implicit) {
        $legs->login($c, $s, $kind, '534 no');

    } else {
        is($t->dialog($c, $s, 'USER u' => '331 password', 'PASS p' => '230 in'),
            '', "$kind login");
        $legs->told($s, $kind);
        is($t->dialog($c, $s, NOOP => '200 okay'), '', "$kind nothing of it");
    }

    $legs->protect($c, $s, "$kind refused", '534 no');
    $legs->transfers($c, $s, "$kind refused", $implicit, 0);

    $legs->protect($c, $s, "$kind P", '200 private');
    $legs->transfers($c, $s, "$kind P", 1, 1);

    $legs->protect($c, $s, "$kind C refused", '534 no', 'C');
    $legs->transfer($c, $s, "$kind C refused", 1, 1, 'EPSV', 'STOR');

    $legs->protect($c, $s, "$kind C", '200 clear', 'C');
    $legs->transfers($c, $s, "$kind C", 0, 0);

    is($t->dialog($c, $s, QUIT => '221 bye'), '', "$kind quit");
    $s->finish;
    is($c->ended, 'eof', "$kind control end");

    # nginx does not answer a close_notify
    like($s->ended, qr/^(?:bare )?eof$/, "$kind server's control end");
}

# a plain server in the same zone, sessions of both at once

{
    my @tls = $legs->session('plain');
    my @plain = $legs->session('plain', port => 2, plain => 1, server => $plain);
    my @offload = $legs->session('explicit', port => 2, plain => 1, server => $plain);

    $legs->login(@tls, 'beside', '200 private');
    is($t->dialog(@$_, 'USER u' => '230 in', NOOP => '200 okay'), '',
        'plain server login') for \@plain, \@offload;
    is($offload[0]->protect, '', 'PROT of the proxy');

    for my $round (1, 2) {
        $legs->transfers(@tls, "beside, TLS server $round", 0, 1);
        $legs->transfers(@plain, "beside, plain server $round", 0, 0);
        $legs->transfers(@offload, "beside, client TLS $round", 1, 0);
    }
}

# verification

for my $case (['plain', 3], ['explicit', 3], ['plain', 4]) {
    my ($kind, $port) = @$case;
    my $client = $kind eq 'explicit';
    my $name = "verify $kind $port";
    my ($c, $s) = $legs->session($kind, port => $port);

    is($s->server_name, 'server', "$name SNI");

    if ($client) {
        is($t->dialog($c, $s, 'USER u' => '230 in'), '', "$name login");
        $legs->told($s, $name);
        $legs->protect($c, $s, $name, '200 private');

    } else {
        $legs->login($c, $s, $name, '200 private');
    }

    $legs->transfers($c, $s, "$name right", $client, 1);

    # of nobody, and of another name
    for my $who ('stranger', 'client') {
        $legs->fails($c, $s, "$name $who $_", $client, $cert{$who},
            $_) for 'RETR', 'STOR';
    }

    $legs->transfers($c, $s, "$name right again", $client, 1);
}

for my $who ('stranger', 'client') {
    my $c = $tls->connect(port => $t->port(3));
    my $s = $tls->serve($server->accept, cert => $cert{$who});

    $s->handshake;
    $s->send("220 ready\r\n") unless $s->{end};
    is($c->rest, '', "control $who");
    ok($c->{end}, "control $who end");
}

$t->done;
