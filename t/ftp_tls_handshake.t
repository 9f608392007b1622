#!/usr/bin/perl

# Handshakes that fail: garbage, a hello that is slow or never comes, a client
# that goes away; on the control connection and on the data connection.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

$t->run(<<"EOF");
    $certificates
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(12)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    # handshakes of a second
    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=hasty:1m min_port=${\$t->port(20)} max_port=${\$t->port(22)};
        ftp_auth_tls on;
        ssl_handshake_timeout 1s;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 12)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(20, 22)};
        ftp_data zone=hasty;
        ssl_handshake_timeout 1s;
    }
EOF

my $garbage = join '', map { chr(255 - $_ % 251) } 1 .. 300;

# four of them wait for a second together: control and data, with no hello and
# with half of one

my @wait;

for my $half (0, 1) {
    my ($c, $s) = $t->session($server, port => $t->port(1));
    $c->command('AUTH TLS');
    like($c->line, qr/^234 /, 'hasty 234');
    $tls->prepare($c);
    $c->send_raw(substr $c->hello, 0, 50) if $half;
    push @wait, ["control, half $half", $c, $s];

    my ($c2, $s2) = $tls->explicit($t, $server, port => $t->port(1));
    is($c2->protect, '', 'hasty PROT P');
    my ($near, $far) = $tls->raw_data($t, $c2, $s2);
    $near->send_raw(substr $near->hello, 0, 50) if $half;
    push @wait, ["data, half $half", $near, $far, $c2, $s2];
}

# ---- control

# garbage

for (["garbage", $garbage], ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"],
    ['zeros', "\0" x 300], ['huge record', "\x16\x03\x01\xff\xff" . 'x' x 70_000],
    ['empty record', "\x16\x03\x01\0\0" x 50], ['alert', "\x15\x03\x01\0\x02\x02\x28"],
    ['SSLv2', "\x80\x2e\x01\x00\x02" . 'x' x 43])
{
    my ($name, $bytes) = @$_;
    my ($c, $s) = $t->session($server);

    $c->command('AUTH TLS');
    like($c->line, qr/^234 /, 'control 234');
    $c->send($bytes);
    $c->rest;
    ok($c->{end}, "control $name");
    is($s->rest, '', "control $name: server");
}

# the client goes away, by FIN and by reset, before and within its hello

for my $how ('finish', 'reset') {
    for my $length (0, 100) {
        my ($c, $s) = $t->session($server);

        $c->command('AUTH TLS');
        like($c->line, qr/^234 /, 'control 234');
        $tls->prepare($c);
        $c->send_raw(substr $c->hello, 0, $length);
        delete $c->{tls};
        $c->$how;
        is($s->rest, '', "control $how after $length");
        ok($s->{end}, "control $how after $length: server's end");
    }
}

# slow, but not too slow

my ($c, $s) = $t->session($server);
$c->command('AUTH TLS');
like($c->line, qr/^234 /, 'slow 234');
$tls->prepare($c);
$c->send_raw(split //, $c->hello);
ok($c->handshake, 'slow hello');

# ---- data; the same session again and again, three ports in all

is($c->protect, '', 'PROT P');

for (['garbage', $garbage], ['plain text', "some text\r\n"], ['zeros', "\0" x 300],
    ['huge record', "\x16\x03\x01\xff\xff" . 'x' x 70_000])
{
    my ($name, $bytes) = @$_;
    my ($near, $far) = $tls->raw_data($t, $c, $s);

    delete $near->{tls};
    $near->send($bytes);
    $near->rest;
    is($near->{end}, 'reset', "data $name");
    is($far->rest, '', "data $name: server");
    is($far->{end}, 'reset', "data $name: server's end");
}

for my $verb ('RETR', 'STOR') {
    for my $how ('finish', 'reset') {
        for my $length (0, 100) {
            my $name = "data $verb $how after $length";
            my ($near, $far) = $tls->raw_data($t, $c, $s);

            is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$name 150");
            $far->send('secret') if $verb eq 'RETR';
            $near->send_raw(substr $near->hello, 0, $length) if $length;
            delete $near->{tls};
            $near->$how;
            is($near->ended, 'reset', "$name: client's end") if $how ne 'reset';
            is($far->ended, 'reset', "$name: server's end");

            $s->send("426 failed\r\n");
            is($c->line, "426 failed\r\n", "$name 426");
        }
    }
}

my ($near, $far) = $tls->raw_data($t, $c, $s);
$near->send_raw(split //, $near->hello);
ok($near->handshake, 'data slow hello');
$far->send('data');
$far->finish;
is($near->rest, 'data', 'data');
is($near->{end}, 'eof', 'data end');

# ---- those that wait

for (@wait) {
    my ($name, $near, $far, $c, $s) = @$_;

    delete $near->{tls};
    is($near->rest, '', "timeout $name");
    ok($near->{end}, "timeout $name: client's end");
    is($near->{end}, 'reset', "timeout $name: reset") if $c;
    is($far->rest, '', "timeout $name: server");
    is($far->{end}, $c ? 'reset' : 'eof', "timeout $name: server's end");

    # the control connection is none the worse
    is($t->dialog($c, $s, NOOP => '200 ok'), '', "timeout $name: control") if $c;
}

my $hasty = $wait[1];
($near, $far) = $tls->tls_data($t, $hasty->[3], $hasty->[4]);
$far->send('data');
$far->finish;
is($near->rest, 'data', 'data after timeouts');

# no port is lost: as many reservations as there are ports

for my $port (0, 1) {
    my @all = map {
        my ($c, $s) = $t->session($server, port => $t->port($port));
        my $reply = $t->passive($c, $s, $server->passive);
        [$reply, $c, $s];
    } 1 .. 3;

    is(scalar(grep { $_->[0] =~ /^227 / } @all), 3, "all ports are free $port");
}

$t->done;
