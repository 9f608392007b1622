#!/usr/bin/perl

# Several servers of one address, told apart by the name in the client's hello:
# the server that the name means says how its own server is spoken to.

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

# before, an address has one server
unless ($t->at_least('1.25.5')) {
    my $server = "server { listen 127.0.0.1:${\$t->port(0)}; "
        . "ftp_ctrl zone=ftp:1m min_port=2000 max_port=2001; "
        . "proxy_pass 127.0.0.1:${\$t->port(1)}; }\n";
    my ($passed, $said) = $t->check($server x 2);

    ok(!$passed, 'one address twice');
    like($said, qr/duplicate "[^"]+" address and port pair/, 'and why');
    $t->done;
    exit;
}

my %server = map { $_ => $t->server } 'plain', 'implicit', 'explicit';
my $certificates = $tls->certificates($t);

my $cert = [map { $t->dir . "/server.$_" } 'crt', 'key'];
my %server_conf = (
    plain    => '',
    implicit => 'proxy_ssl on;',
    explicit => 'proxy_ssl on; ftp_proxy_auth_tls on;',
);
my @kinds = sort keys %server_conf;

# each kind is once the first one of an address, whose settings a name replaces
my $servers = '';

for my $i (0 .. $#kinds) {
    for my $kind (@kinds[$i .. $#kinds], @kinds[0 .. $i - 1]) {
        my $default = $kind eq $kinds[$i] ? ' default_server' : '';
        my $zone = $servers ? 'ftp' : 'ftp:1m';

        $servers .= <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port($i)} ssl$default;
        server_name $kind.example;
        ftp_ctrl zone=$zone min_port=${\$t->port(20)} max_port=${\$t->port(39)};
        proxy_pass ${\$server{$kind}->at};
        $server_conf{$kind}
    }
EOF
    }
}

# private data only, by the name's server and not by the address's

my $named = <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port(9)} ssl default_server;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{plain}->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(9)} ssl;
        server_name private.example;
        ftp_ctrl zone=ftp;
        ftp_data_tls required;
        proxy_pass ${\$server{plain}->at};
    }
EOF

# what counts before the hello must not depend on it

for my $early ('ftp_auth_tls on;', 'ftp_data_tls_reuse required;') {
    my $at = "listen 127.0.0.1:${\$t->port(9)} ssl; $certificates "
        . "ftp_ctrl zone=ftp:1m min_port=2000 max_port=2001; "
        . "proxy_pass 127.0.0.1:${\$t->port(8)};";
    my ($passed, $said) = $t->check("server { $at }\n"
        . "server { $at server_name x.example; $early }\n");

    ok(!$passed, "$early differs");
    like($said, qr/servers of one address must have the same "ftp_auth_tls"/,
        "$early and why");
}

$t->run(<<"EOF");
    $certificates
$servers
$named
    server {
        listen 127.0.0.1:${\$t->range(20, 39)};
        ftp_data zone=ftp;
    }
EOF

my $legs = Test::Nginx::FtpLegs->new($t,
    serve => { cert => $cert },
    ports => { implicit => 0 },
);

for my $i (0 .. $#kinds) {
    for my $kind (@kinds, 'none') {
        my $name = "$kind in front of $kinds[$i]";
        my $to = $kind eq 'none' ? $kinds[$i] : $kind;

        my ($c, $s) = $legs->session('implicit', port => $i,
            server => $server{$to}, plain => $to eq 'plain',
            serve  => { explicit => $to eq 'explicit' },
            client => $kind eq 'none' ? {} : { name => "$kind.example" });

        if ($to eq 'plain') {
            is($t->dialog($c, $s, 'USER u' => '230 in', NOOP => '200 ok'), '',
                "$name login");
        } else {
            $legs->login($c, $s, $name, '200 private');
        }

        $legs->transfers($c, $s, $name, 1, $to ne 'plain');
    }
}

for my $name ('', 'private.example') {
    my ($c, $s) = $legs->session('implicit', port => 9,
        server => $server{plain}, plain => 1,
        client => $name ? { name => $name } : {});

    $c->send("PROT C\r\n");
    like($c->line, $name ? qr/^534 / : qr/^200 /, "PROT C of '$name'");
}

$t->done;
