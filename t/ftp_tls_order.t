#!/usr/bin/perl

# The order of things on a data connection: the other leg is connected first, and
# what the server sends before the client's handshake waits for it.

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
        ftp_ctrl zone=auth:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=listen:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=auth;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)} ssl;
        ftp_data zone=listen;
    }
EOF

my $bytes = join('', map { chr } 0 .. 255) x 2000;

for my $port (0, 1) {
    my $kind = $port ? 'listen ssl' : 'no listen ssl';

    for my $version (1.2, 1.3) {
        my $name = "$kind $version";
        my %arg = (version => $version);
        my ($c, $s) = $tls->explicit($t, $server, port => $t->port($port), %arg);

        is($c->protect, '', "$name PROT P");

        # a server that says 150 only when its port is accepted, a client that
        # begins only behind 150; RETR before the data connection or behind

        for my $first ('command', 'connect') {
            my $listener = $server->passive;
            my $reply = $t->passive($c, $s, $listener, 'EPSV');
            my $near;

            $c->command('RETR f') if $first eq 'command';
            $near = $c->data($c->passive_port($reply));
            $c->command('RETR f') if $first eq 'connect';

            is($s->line, "RETR f\r\n", "$name $first command");
            my $far = $listener->accept;
            is($near->waiting, '', "$name $first nothing in clear");
            $s->send("150 now\r\n");
            is($c->line, "150 now\r\n", "$name $first 150");
            ok($tls->secure($near, %arg), "$name $first handshake");
            $far->send($bytes);
            $far->finish;
            ok($near->rest eq $bytes, "$name $first bytes");
            is($near->{end}, 'eof', "$name $first end");
            $s->send("226 done\r\n");
            is($c->line, "226 done\r\n", "$name $first 226");
        }

        # a server that sends all at once and ends, before the handshake, and
        # more than buffers hold

        for my $size (0, 5, 20_000, length $bytes) {
            my $case = "$name $size bytes at once";
            my ($near, $far) = $tls->raw_data($t, $c, $s, 'EPSV', %arg);

            is($t->dialog($c, $s, 'RETR f' => '150 now'), '', "$case 150");
            $far->send(substr $bytes, 0, $size);
            $far->finish;
            $s->send("226 done\r\n");
            is($c->line, "226 done\r\n", "$case 226");

            ok($near->handshake, "$case handshake");
            ok($near->rest eq substr($bytes, 0, $size), $case);
            is($near->{end}, 'eof', "$case end");
            is($far->ended, 'eof', "$case server's end");
        }

        # the hello comes bytewise while the server's bytes are there

        my ($near, $far) = $tls->raw_data($t, $c, $s, 'EPSV', %arg);
        is($t->dialog($c, $s, 'RETR f' => '150 now'), '', "$name slow 150");
        $far->send('first');
        $near->send_raw(split //, $near->hello);
        $far->send('second');
        ok($near->handshake, "$name slow handshake");
        $far->finish;
        is($near->rest, 'firstsecond', "$name slow bytes");

        # upload: the client's bytes in one flight with the end of its
        # handshake, an empty file among them

        for my $size (0, 7, length $bytes) {
            my $case = "$name upload $size";
            my ($near, $far) = $tls->raw_data($t, $c, $s, 'EPSV', %arg);
            is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "$case 150");
            ok($near->handshake, "$case handshake");
            $near->send(substr $bytes, 0, $size);
            $near->finish;
            ok($far->rest eq substr($bytes, 0, $size), $case);
            is($far->{end}, 'eof', "$case end");
            is($near->ended, 'eof', "$case client's end");
        }

        # 550 to RETR while a handshake is pending: the server closes its port,
        # by FIN or reset, or never accepts

        for my $how ('finish', 'close', 'reset', 'refuse', 'keep') {
            my $case = "$name 550, $how";
            my $listener = $server->passive;
            my $reply = $t->passive($c, $s, $listener, 'EPSV');
            my $near = $c->data($c->passive_port($reply));
            my $far = $listener->accept;

            $tls->prepare($near, %arg);
            is($t->dialog($c, $s, 'RETR f' => '550 no such file'), '', $case);

            if ($how eq 'refuse') {
                $far->reset;
                $listener->close;
            } else {
                $far->$how if $how ne 'keep';
            }

            # the client goes on with TLS: that must not hang
            $near->handshake;

            if ($how eq 'keep') {
                $near->finish;
                is($far->ended, 'eof', "$case server's end");
            }

            is($near->rest, '', "$case no bytes");
            like($near->{end}, $how =~ /^re/ ? qr/^reset/
                : $how eq 'keep' ? qr/./ : qr/^eof/, "$case end");
            is($t->dialog($c, $s, NOOP => '200 ok'), '', "$case control");
        }

        # STOR refused

        for my $how ('finish', 'reset') {
            my $case = "$name STOR refused, $how";
            my ($near, $far) = $tls->raw_data($t, $c, $s, 'EPSV', %arg);
            is($t->dialog($c, $s, 'STOR f' => '553 no'), '', $case);
            $far->$how;
            $near->handshake;
            is($near->rest, '', "$case no bytes");
            like($near->{end}, $how eq 'reset' ? qr/^reset/ : qr/./, "$case end");
        }

        # the server does not listen any more

        my $listener = $server->passive;
        my $reply = $t->passive($c, $s, $listener, 'EPSV');
        $listener->close;
        $near = $c->data($c->passive_port($reply));
        is($near->ended, 'reset', "$name nobody listens");

        is($t->dialog($c, $s, NOOP => '200 ok'), '', "$name control lives");
    }
}

# listen ssl is TLS whatever PROT says

my ($c, $s) = $tls->explicit($t, $server, port => $t->port(1));
my ($near, $far) = $tls->tls_data($t, $c, $s);
$far->send('data');
$far->finish;
is($near->rest, 'data', 'listen ssl without PROT P');

# a whole upload behind the handshake, found at once; and a whole handshake
# together with the server's bytes

for my $version (1.2, 1.3) {
    my %arg = (version => $version);
    my ($c, $s) = $tls->explicit($t, $server, %arg);
    is($c->protect, '', "at once $version PROT P");

    my ($near, $far) = $tls->raw_data($t, $c, $s, 'PASV', %arg);
    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "at once $version STOR");

    my $worker = $t->worker_of($near);
    $near->send_raw($near->hello);

    # the server's flight has come, its answer waits
    $near->_wait('read');
    $t->paused($worker, sub {
        ok($near->handshake, "at once $version handshake");
        $near->send('upload');
        $near->finish;
    }) if $version == 1.3;

    if ($version == 1.2) {
        ok($near->handshake, "at once $version handshake");
        $t->paused($worker, sub {
            $near->send('upload');
            $near->finish;
        });
    }

    is($far->rest, 'upload', "at once $version bytes");
    is($far->{end}, 'eof', "at once $version end");
    is($near->ended, 'eof', "at once $version client's end");

    ($near, $far) = $tls->raw_data($t, $c, $s, 'PASV', %arg);
    $worker = $t->worker_of($near);
    $t->paused($worker, sub {
        $near->send_raw($near->hello);
        $far->send('download');
        $far->finish;
    });
    ok($near->handshake, "download at once $version handshake");
    is($near->rest, 'download', "download at once $version");
    is($near->{end}, 'eof', "download at once $version end");
}

# many small transfers

is($c->protect, '', 'PROT P');
for my $i (1 .. 40) {
    my ($near, $far) = $tls->tls_data($t, $c, $s);
    $far->send("file $i");
    $far->finish;
    is($near->rest . " $near->{end}", "file $i eof", "small $i");
}

$t->done;
