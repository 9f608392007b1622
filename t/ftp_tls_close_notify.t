#!/usr/bin/perl

# An upload over TLS that ends without close_notify: complete, or cut where
# ftp_data_tls_close_notify requires one.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my ($server, $private) = map { $t->server } 1, 2;
my $certificates = $tls->certificates($t);

my $cert = [map { $t->dir . "/server.$_" } 'crt', 'key'];
my $n = 0;

# A control server and its data server.
sub pair {
    my ($to, $data, $listen) = @_;

    my $from = 20 + 8 * $n;
    my $port = $n++;

    $listen = $listen ? " $listen" : '';

    return <<"END";
    server {
        listen 127.0.0.1:${\$t->port($port)};
        ftp_ctrl zone=z$port:1m min_port=${\$t->port($from)} max_port=${\$t->port($from + 7)};
        ftp_auth_tls on;
        proxy_pass $to;
        proxy_ssl ${\($to eq $private->at ? 'on' : 'off')};
    }

    server {
        listen 127.0.0.1:${\$t->range($from, $from + 7)}$listen;
        ftp_data zone=z$port;
        access_log logs/$port.log data;
        $data
    }
END
}

my $required = 'ftp_data_tls_close_notify required;';

$t->run(<<"EOF");
    $certificates
    $required
    log_format data '\$ftp_data_status \$ftp_command';
${\pair($server->at, '')}
${\pair($server->at, 'ftp_data_tls_close_notify optional;')}
${\pair($server->at, '', 'ssl')}
${\pair($private->at, $required)}
EOF

my %lines;

# The end of a transfer, whose status is then logged.
sub ends {
    my ($c, $s, $port, $status, $name) = @_;

    is(($t->wait_access(++$lines{$port}, "logs/$port.log"))[-1], $status,
        "$name status");
    $s->send("226 or not\r\n");
    is($c->line, "226 or not\r\n", "$name reply");

    return;
}

# A session with private data connections.
sub session {
    my ($port, %arg) = @_;

    my ($c, $s);

    if ($port == 3) {
        $c = $tls->connect(port => $t->port($port));
        $s = $tls->accept($private, cert => $cert);
        $s->send("220 ready\r\n");
        is($c->line, "220 ready\r\n", 'greeting');
        $tls->auth($c, %arg);
        is($t->dialog($c, $s, 'PBSZ 0' => '200 ok', 'PROT P' => '200 ok'), '',
            'PROT P');

    } else {
        ($c, $s) = $tls->explicit($t, $server, port => $t->port($port), %arg);
        is($c->protect, '', 'PROT P');
    }

    return ($c, $s);
}

# A data connection, its handshakes done: the client's end, the server's.
sub data {
    my ($c, $s, $port, $verb, %arg) = @_;

    my ($near, $far) = $tls->raw_data($t, $c, $s, 'PASV', %arg);

    is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$verb 150");
    ok($tls->serve($far, cert => $cert)->handshake, "$verb server's TLS")
        if $port == 3;
    ok($near->handshake, "$verb TLS");

    return ($near, $far);
}

my %how = (
    'close_notify'         => sub { $_[0]->notify },
    'close_notify and FIN' => sub { $_[0]->finish },
    'FIN'                  => sub { $_[0]->finish(abruptly => 1) },
);

for my $version (1.2, 1.3) {
    my %arg = (version => $version);

    for my $port (0 .. 3) {
        my ($c, $s) = session($port, %arg);

        for my $bytes ('', 'x', 'x' x 300_000) {
            for my $how (sort keys %how) {
                my $name = length($bytes) . " bytes, $how, $version, $port";
                my ($near, $far) = data($c, $s, $port, 'STOR', %arg);
                my $cut = $how eq 'FIN' && $port != 1;

                $near->send($bytes);
                is(length $far->bytes(length $bytes), length $bytes, $name);
                $how{$how}->($near);

                if ($cut) {
                    is($far->ended, 'reset', "$name server's end");
                    ends($c, $s, $port, 'cut STOR', $name);

                } else {
                    is($far->ended, 'eof', "$name server's end");
                    is($near->ended, 'eof', "$name end");
                    ends($c, $s, $port, 'complete STOR', $name);
                }
            }

            # a FIN right behind the bytes
            my $name = length($bytes) . " bytes at once, $version, $port";
            my ($near, $far) = data($c, $s, $port, 'STOR', %arg);

            $near->send($bytes);
            $near->finish(abruptly => 1);
            my $got = $far->rest;
            is($far->{end}, $port == 1 ? 'eof' : 'reset', "$name server's end");
            is(length $got, length $bytes, "$name bytes") if $port == 1;
            ends($c, $s, $port, $port == 1 ? 'complete STOR' : 'cut STOR', $name);

            # downloads have no part in it, however the client ends

            for my $end ('notify', 'close', 'FIN', 'mute') {
                $name = length($bytes) . " bytes down, $end, $version, $port";
                ($near, $far) = data($c, $s, $port, 'RETR', %arg,
                    mute => $end ne 'notify');

                $far->send($bytes);
                is(length $near->bytes(length $bytes), length $bytes, $name);
                $far->finish;
                $t->wait_for('close_notify', sub {
                    $near->fill(Time::HiRes::time() + 0.005);
                    $near->is_notified;
                });
                $near->finish(abruptly => 1) if $end eq 'FIN';
                $near->close if $end eq 'close';
                is($far->ended, 'eof', "$name server's end");
                ends($c, $s, $port, 'complete RETR', $name);
            }
        }

        # into a server that reads slowly

        my $name = "slow server $version, $port";
        my ($near, $far) = data($c, $s, $port, 'STOR', %arg, rcvbuf => 4096);

        $near->send('x' x 65536);
        $near->finish(abruptly => 1);
        my $got = $far->rest;
        is($far->{end}, $port == 1 ? 'eof' : 'reset', $name);
        ends($c, $s, $port, $port == 1 ? 'complete STOR' : 'cut STOR', $name);

        # a reset stays one

        ($near, $far) = data($c, $s, $port, 'STOR', %arg);
        $near->send('some');
        is($far->bytes(4), 'some', "reset $version, $port");
        $near->reset;
        is($far->ended, 'reset', "reset $version, $port, server's end");
        ends($c, $s, $port, 'cut STOR', "reset $version, $port");

        # data in clear ends with a FIN

        next if $port == 2;

        if ($port == 3) {
            is($t->dialog($c, $s, 'PROT C' => '200 ok'), '', 'PROT C');
        } else {
            is($c->protect('C'), '', 'PROT C');
        }

        ($near, $far) = $t->data($c, $s);
        is($t->dialog($c, $s, 'STOR f' => '150 now'), '', 'clear 150');
        $near->send('some');
        $near->finish;
        is($far->rest, 'some', "clear $version, $port");
        is($far->{end}, 'eof', "clear $version, $port, end");
        ends($c, $s, $port, 'complete STOR', "clear $version, $port");
    }
}

# a client in clear in front of a server with TLS

{
    my $c = $tls->connect(port => $t->port(3));
    my $s = $tls->accept($private, cert => $cert);
    $s->send("220 ready\r\n");
    is($c->line, "220 ready\r\n", 'plain client');
    is($t->dialog($c, $s, 'USER u' => '230 in'), '', 'plain login');
    is($s->line, "$_\r\n", $_) for 'PBSZ 0', 'PROT P';
    $s->send("200 ok\r\n200 ok\r\n");

    my ($near, $far) = $t->data($c, $s);
    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', 'plain client 150');
    ok($tls->serve($far, cert => $cert)->handshake, "plain client's server TLS");
    $near->send('some');
    $near->finish;
    is($far->rest, 'some', "plain client's bytes");
    is($far->{end}, 'eof', "plain client's end");
    ends($c, $s, 3, 'complete STOR', 'plain client');
}

$t->done;
