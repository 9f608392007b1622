#!/usr/bin/perl

# How private data ends: close_notify and FIN where all has arrived, a reset
# without close_notify where it was cut.

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

sub conf {
    return <<"EOF";
    $certificates
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=short:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)};
        ftp_data zone=short;
        proxy_timeout 1s;
    }
EOF
}

$t->run(conf(), workers => 1, main => 'worker_shutdown_timeout 1s;');

# the idle ones first, so that they wait together

my @idle;

for my $version (1.2, 1.3) {
    my %arg = (version => $version);
    my ($c, $s) = $tls->explicit($t, $server, port => $t->port(1), %arg);
    is($c->protect, '', 'PROT P');

    my ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    $far->send('some');
    is($near->bytes(4), 'some', 'some');
    push @idle, ["idle download $version", $near, $far, $c, $s];

    ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    $near->send('some');
    is($far->bytes(4), 'some', 'some');
    push @idle, ["idle upload $version", $near, $far, $c, $s];
}

for my $version (1.2, 1.3) {
    my %arg = (version => $version);
    my ($c, $s) = $tls->explicit($t, $server, %arg);
    is($c->protect, '', 'PROT P');

    for my $bytes ('', 'x', 'x' x 300_000) {
        my $name = length($bytes) . " bytes $version";

        # download

        my ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
        $far->send($bytes);
        $far->finish;
        ok($near->rest eq $bytes, "download $name");
        is($near->{end}, 'eof', "download $name end");
        is($far->ended, 'eof', "download $name server's end");

        # a client that does not answer close_notify is done nevertheless: it
        # closes, and the control connection has no part in it

        ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg, mute => 1);
        $far->send($bytes);
        $far->finish;
        ok($near->bytes(length $bytes) eq $bytes, "mute download $name");
        $t->wait_for('close_notify', sub {
            $near->fill(Time::HiRes::time() + 0.005); $near->is_notified });
        ok($near->is_notified, "mute download $name notified");
        is($far->ended, 'eof', "mute download $name server's end");
        $near->close;

        ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
        $far->send($bytes);
        ok($near->bytes(length $bytes) eq $bytes, "reset download $name");
        $far->reset;
        is($near->ended, 'reset', "reset download $name end");

        # upload, with close_notify alone, with close_notify and FIN, and with
        # a FIN alone, as many clients end it

        for my $how ('notify', 'both', 'FIN') {
            ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
            is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "STOR $name");
            $near->send($bytes);
            $near->notify if $how eq 'notify';
            $near->finish if $how eq 'both';
            $near->finish(abruptly => 1) if $how eq 'FIN';
            ok($far->rest eq $bytes, "upload $name $how");
            is($far->{end}, 'eof', "upload $name $how end");
            is($near->ended, 'eof', "upload $name $how client's end");
        }

        ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
        $near->send($bytes);
        ok($far->bytes(length $bytes) eq $bytes, "reset upload $name");
        $near->reset;
        is($far->ended, 'reset', "reset upload $name end");
    }

    # Many clients say close_notify and close without having read anything: were
    # there tickets of TLS 1.3, their kernel would throw away what is not sent.

    for my $bytes ('x', 'x' x 10_000, 'x' x 300_000) {
        my $name = length($bytes) . " bytes and close $version";
        my ($near, $far) = $tls->raw_data($t, $c, $s, 'PASV', %arg);
        is($t->dialog($c, $s, 'STOR f' => '150 now'), '', $name);
        ok($near->handshake, "$name handshake");
        $near->send($bytes);
        $near->notify;
        $near->close;
        ok($far->rest eq $bytes, $name);
        is($far->{end}, 'eof', "$name end");
    }

    # a reset that is found together with the end of the handshake

    for my $verb ('STOR', 'RETR') {
        my ($near, $far) = $tls->raw_data($t, $c, $s, 'PASV', %arg);
        is($t->dialog($c, $s, "$verb f" => '150 now'), '', "early $version");
        my $worker = $t->worker_of($near);
        $near->send_raw($near->hello);
        $near->_wait('read');
        $near->handshake if $version == 1.2;
        $t->paused($worker, sub {
            $near->handshake if $version == 1.3;
            $near->reset;
        });
        is($far->ended, 'reset', "early reset $version $verb");
    }

    # garbage within TLS

    my ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "garbage $version");
    $near->send('good');
    is($far->bytes(4), 'good', "garbage $version in front");
    $near->send_raw("\x17\x03\x03\x00\x20" . 'x' x 32);
    is($far->ended, 'reset', "garbage $version server");
    like($near->rest . $near->{end}, qr/^(?:reset|alert)$/, "garbage $version");

    # a FIN in the middle of a record

    ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "half $version");
    $near->send('good');
    is($far->bytes(4), 'good', "half $version in front");
    $near->send_raw("\x17\x03\x03\x00\x40" . 'x' x 10);
    delete $near->{tls};
    $near->finish;
    is($far->ended, 'reset', "half a record $version server");

    # a reset behind more than the client has read: no close_notify

    ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    is($t->dialog($c, $s, 'RETR f' => '150 now'), '', "unread $version");
    $far->write_some('x' x 65536) for 1 .. 100;
    $far->reset;
    $near->rest;
    is($near->{end}, 'reset', "reset behind unread bytes $version");

    # the reader gives up

    ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    $far->send('x' x 100_000);
    $near->bytes(10);
    $near->reset;
    is($far->ended, 'reset', "client gives up $version");

    ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    $near->send('x' x 100_000);
    $far->bytes(10);
    $far->reset;
    is($near->ended, 'reset', "server gives up $version");

    # a client that gives up politely, in the middle of a download

    ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
    is($t->dialog($c, $s, 'RETR f' => '150 now'), '', "polite $version");
    $far->send('x' x 1000);
    $near->bytes(1000);
    $near->finish;
    $far->rest;
    ok($far->{end}, "polite $version server's end");
    ok($near->ended, "polite $version end");

    # the control connection, ended by each side

    is($t->dialog($c, $s, QUIT => '221 bye'), '', "QUIT $version");
    $s->close;
    is($c->ended, 'eof', "control end $version");

    ($c, $s) = $tls->explicit($t, $server, %arg);
    $c->finish;
    is($s->ended, 'eof', "control end by client $version");
    # without close_notify, as nginx ends what the client ended
    like($c->ended, qr/eof$/, "control end of client $version");

    ($c, $s) = $tls->explicit($t, $server, %arg);
    $c->finish(abruptly => 1);
    is($s->ended, 'eof', "control FIN by client $version");
}

# ---- proxy_timeout

for (@idle) {
    my ($name, $near, $far, $c, $s) = @$_;

    is($near->ended, 'reset', "$name client");
    is($far->ended, 'reset', "$name server");
}

# ---- shutdown, with one handshake done, one pending and one pending on the
# control connection

my ($c, $s) = $tls->explicit($t, $server);
is($c->protect, '', 'PROT P');
my ($near, $far) = $tls->tls_data($t, $c, $s);
$far->send('some');
is($near->bytes(4), 'some', 'some');
my ($near2, $far2) = $tls->raw_data($t, $c, $s);
is($t->dialog($c, $s, 'STOR f' => '150 now'), '', 'STOR');
my ($c2, $s2) = $t->session($server);
$c2->command('AUTH TLS');
like($c2->line, qr/^234 /, 'pending 234');

$t->reload(conf(), workers => 1, main => 'worker_shutdown_timeout 1s;');

is($near->ended, 'reset', 'shutdown client');
is($far->ended, 'reset', 'shutdown server');
delete $near2->{tls};
is($near2->ended, 'reset', 'shutdown pending client');
is($far2->ended, 'reset', 'shutdown pending server');
ok($c2->ended, 'shutdown pending control');
ok($s2->ended, 'shutdown pending control, server');

$t->done;
