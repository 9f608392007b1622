#!/usr/bin/perl

# A server that takes connections, agrees on TLS even, and then says nothing: an
# error line tells of it, once, and of nothing else that ends a handshake.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpDns;
use Test::Nginx::FtpLegs;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my ($silent, $good, $strange) = map { $t->server } 1 .. 3;
my $dns = Test::Nginx::FtpDns->new;
my $certificates = $tls->certificates($t);
my $dir = $t->dir;
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] } 'server', 'stranger';
my $n = 0;

sub ctrl {
    my ($to, $more) = @_;

    my $port = $t->port($n);
    my $zone = $n++ ? 'ftp' : 'ftp:1m';

    return "server { listen 127.0.0.1:$port; ftp_ctrl zone=$zone "
        . "min_port=${\$t->port(20)} max_port=${\$t->port(39)}; "
        . "proxy_pass $to; " . ($more // '') . " }\n";
}

my $explicit = 'ftp_proxy_auth_tls on;';
my $name = 'silent.example:' . $silent->port;
my $resolver = "resolver 127.0.0.1:${\$dns->port} ipv6=off;";

my $servers = join '',
    ctrl($silent->at),                          # 0
    ctrl($silent->at, $explicit),               # 1
    ctrl('$silent'),                            # 2
    ctrl('$silent', $explicit),                 # 3
    ctrl('$named', $resolver),                  # 4
    ctrl('$named', "$resolver $explicit"),      # 5
    ctrl('both'),                               # 6
    ctrl('both', $explicit),                    # 7
    ctrl('$both'),                              # 8
    ctrl($strange->at),                         # 9
    ctrl($strange->at, $explicit),              # 10
    ctrl($good->at);                            # 11

$t->run(<<"EOF");
    $certificates
    proxy_ssl on;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate $dir/ca.crt;
    proxy_ssl_name server;
    proxy_connect_timeout 1s;
    log_format data '\$ftp_data_status';

    map \$server_port \$silent { default ${\$silent->at}; }
    map \$server_port \$named { default $name; }
    map \$server_port \$both { default both; }

    upstream both {
        server ${\$silent->at} weight=1000 max_fails=0;
        server ${\$good->at} max_fails=0;
    }

$servers
    server {
        listen 127.0.0.1:${\$t->range(20, 39)};
        ftp_data zone=ftp;
        access_log logs/data.log data;
    }
EOF

my $line = qr/\[error\].*server did not finish the TLS handshake within/;

sub client { $tls->connect(port => $t->port($_[0])) }

# ---- what fails otherwise

for my $port (9, 10) {
    for my $how ('finish', 'reset', 'clear', 'stranger') {
        my $c = client($port);
        my $s = $strange->accept;

        $tls->agree($s) if $port == 10;
        like($s->bytes(3), qr/\A\x16\x03/, "$port $how, hello");

        if ($how eq 'clear') {
            $s->send("220 ready\r\n");

        } elsif ($how eq 'stranger') {
            $s->{in} = "\x16\x03\x01" . $s->{in};
            $tls->serve($s, cert => $cert{stranger})->handshake;

        } else {
            $s->$how;
        }

        is($c->ended, 'eof', "$port $how, client's end");
    }
}

# ---- the client goes

for my $port (0, 1) {
    my $c = client($port);
    my $s = $silent->accept;

    $tls->agree($s) if $port;
    like($s->bytes(3), qr/\A\x16\x03/, "$port, hello");
    $s->reset;
    $c->ended;
}

is(scalar $t->lines($line), 0, 'other ends');

# ---- nothing comes

my @waiting;

for my $port (0 .. 8) {
    my $c = client($port);

    $dns->answer('127.0.0.1') if $port == 4 || $port == 5;

    my $s = $silent->accept;

    $tls->agree($s) if $port % 2;
    like($s->bytes(3), qr/\A\x16\x03/, "$port, hello");
    push @waiting, [$port, $c, $s];
}

# and data connections

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $good,
    serve  => { cert => $cert{server} },
    ports  => { plain => 11 },
);
my ($c, $s) = $legs->ready('plain', 'data');
my @data;

for my $verb ('', 'RETR', 'STOR') {
    my $listener = $t->server;
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    my $far = $listener->accept;

    is($t->dialog($c, $s, "$verb f" => '150 now'), '', $verb) if $verb;
    like($far->bytes(3), qr/\A\x16\x03/, "data $verb, hello");
    push @data, [$verb, $near, $far];
}

for (@waiting) {
    my ($port, $c, $s) = @$_;

    if ($port >= 6) {
        my $next = $tls->accept($good, cert => $cert{server},
            explicit => $port % 2);

        $next->send("220 ready\r\n") unless $port % 2;
        is($c->line, "220 ready\r\n", "$port, the next server");

    } else {
        is($c->ended, 'eof', "$port, client's end");
    }

    $s->rest;
    is($s->{end}, 'eof', "$port, server's end");
}

for (@data) {
    my ($verb, $near, $far) = @$_;

    is($near->ended, 'reset', "data $verb, client's end");
    $far->rest;
    is($far->{end}, 'reset', "data $verb, server's end");
}

ok($t->wait_log($line, @waiting + @data), 'each');

my @lines = $t->lines($line);

is(scalar @lines, @waiting + @data, 'once');
is(scalar(grep { /within "proxy_connect_timeout" while SSL handshaking to upstream, client: 127/ }
    @lines), scalar @lines, 'what happened');
is(scalar(grep { /upstream: "\Q${\$silent->at}\E"/ } @lines), scalar @waiting,
    'which server');
is(scalar $t->lines(qr/\[error\].*timed out|firewall/), 0, 'nothing else');

$t->done;
