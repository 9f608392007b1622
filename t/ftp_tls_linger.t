#!/usr/bin/perl

# The end of an upload toward a server with TLS that reads slowly: all bytes and
# close_notify arrive, though the session is over and the server's own words
# (tickets) lie unread; and what is kept open for that is closed in the end.

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

sub ctrl {
    my ($port, $more, $listen) = @_;

    my $zone = $port ? 'ftp' : 'ftp:1m';

    return "server { listen 127.0.0.1:${\$t->port($port)}" . ($listen // '')
        . "; ftp_ctrl zone=$zone min_port=${\$t->port(20)} "
        . "max_port=${\$t->port(59)}; proxy_pass ${\$server->at}; $more }\n";
}

sub conf {
    return <<"EOF";
    $certificates
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    log_format data '\$ftp_data_status';

${\ctrl(0, 'ftp_auth_tls on;')}
${\ctrl(1, '', ' ssl')}
${\ctrl(2, 'ftp_auth_tls on; ftp_proxy_auth_tls on;')}
${\ctrl(3, 'ftp_proxy_auth_tls on;', ' ssl')}
    server {
        listen 127.0.0.1:${\$t->range(20, 59)};
        ftp_data zone=ftp;
        access_log logs/data.log data;
    }
EOF
}

my @run = (workers => 1, connections => 160);

$t->run(conf(), @run, main => 'worker_shutdown_timeout 1s;');

my %legs = map {
    my ($way, $port) = @$_;

    $way => Test::Nginx::FtpLegs->new($t,
        server => $server,
        serve  => { cert => $cert, explicit => $way eq 'explicit' },
        ports  => { plain => $port, explicit => $port, implicit => $port + 1 },
    );
} ['implicit', 0], ['explicit', 2];

my $lines = 0;

# An upload whose control connection is ready: the ends of its data connection,
# all handshakes done.  late => 1: the server has sent its flight, but does not
# look at the answer, and has not sent its tickets
sub upload {
    my ($c, $s, $kind, %serve) = @_;

    my $late = delete $serve{late};

    my $listener = $t->server(rcvbuf => 4096);
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    my $far = $listener->accept;

    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', 'STOR');
    $tls->serve($far, %serve);

    if ($late) {
        $far->_wait('read');
        ok(!$far->step, "server's handshake begins");
    } else {
        ok($far->handshake, "server's handshake");
    }

    ok($tls->secure($near), "client's handshake") if $kind ne 'plain';

    return ($near, $far);
}

# The session of the data connection is over, and well.
sub is_complete {
    my ($near, $name) = @_;

    is($near->ended, 'eof', "$name client's end");
    is(($t->wait_access(++$lines, 'logs/data.log'))[-1], 'complete',
        "$name status");

    return;
}

# Sockets of a worker.
sub sockets {
    my ($worker) = @_;

    return scalar grep { (readlink $_ // '') =~ /^socket:/ }
        glob "/proc/$worker/fd/*";
}

# ---- a server that reads when all is over

for my $way ('implicit', 'explicit') {
    for my $version (1.2, 1.3) {
        for my $kind ('plain', 'explicit', 'implicit') {
            my $name = "$way server $version, $kind client";
            my $context = $tls->context(cert => $cert, version => $version);
            my ($c, $s) = $legs{$way}->ready($kind, $name,
                serve => { context => $context });

            # as much as kernels hold, and less
            for my $case (map { [0, $_], [1, $_] } 0, 1, 5_000, 40_000, 200_000) {
                my ($late, $size) = @$case;

                # before TLS 1.3 the server has the last word of the handshake
                next if $late && $version == 1.2;

                my ($near, $far) = upload($c, $s, $kind, context => $context,
                    late => $late);
                my $bytes = substr "$name " x 20_000, 0, $size;
                my $what = $size . ($late ? ' late' : '');

                $near->send($bytes);
                $near->finish;
                is_complete($near, "$name $what");

                # the server's tickets come now
                ok($far->handshake, "$name $what, server's handshake") if $late;
                my $got = $size ? $far->bytes(1) : '';
                ok($got . $far->rest eq $bytes, "$name $what bytes");
                is($far->{end}, 'eof', "$name $what end");

                $s->send("226 done\r\n");
                is($c->line, "226 done\r\n", "$name $size 226");
            }

            is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
            $s->finish;
            is($c->ended, 'eof', "$name end");
        }
    }
}

# ---- more than kernels hold: the socket may be full when the end comes

for my $version (1.2, 1.3) {
    my $context = $tls->context(cert => $cert, version => $version);
    my ($c, $s) = $legs{explicit}->ready('plain', "full $version",
        serve => { context => $context });

    for my $i (0 .. 15) {
        my $name = "full $version $i";
        my $size = 8_000_000 + $i * 1_021;
        my ($near, $far) = upload($c, $s, 'plain', context => $context);
        my ($sent, $got) = (0, 0);
        my $bytes = 'x' x 65536;

        # the reader only as far as the writer needs it
        while ($sent < $size) {
            my $most = $size - $sent;
            my $n = $near->write_some($most < 65536 ? substr $bytes, 0, $most
                : $bytes) // last;
            $sent += $n;
            next if $n;

            $far->fill(Time::HiRes::time() + 0.001, 4096);
            $got += length $far->{in};
            $far->{in} = '';
        }

        $near->finish;

        # nginx takes the last of it when there is room
        while ($got < $size && !$near->{end}) {
            $near->fill(Time::HiRes::time());
            $far->fill(Time::HiRes::time() + 0.01, 4096) or next;
            $got += length $far->{in};
            $far->{in} = '';
        }

        is_complete($near, $name);
        is($got + length $far->rest, $size, "$name bytes");
        is($far->{end}, 'eof', "$name end");

        $s->send("226 done\r\n");
        is($c->line, "226 done\r\n", "$name 226");
    }
}

# ---- what is kept open

my ($worker) = $t->workers;

# A leg that lingers: its session is over, the server has not closed.
sub lingering {
    my ($version, $c, $s, $context) = @_;

    my ($near, $far) = upload($c, $s, 'plain', context => $context, mute => 1);

    $near->send('some');
    $near->finish;
    is_complete($near, 'lingering');
    is($far->bytes(4), 'some', 'lingering bytes');
    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", 'lingering 226');
    $near->close;

    return $far;
}

for my $version (1.2, 1.3) {
    my $context = $tls->context(cert => $cert, version => $version);
    my ($c, $s) = $legs{implicit}->ready('plain', "kept $version",
        serve => { context => $context });

    for my $how ('finish', 'close', 'reset') {
        my $name = "$version, server's $how";
        my $before = sockets($worker);
        my $far = lingering($version, $c, $s, $context);

        # its FIN has come, so it is the server's turn
        is($far->rest . $far->{end}, 'eof', "$name, told");
        is(sockets($worker), $before + 1, "$name, kept open");
        $far->$how;
        ok($t->wait_for('the last socket', sub { sockets($worker) == $before }),
            "$name, closed");
    }

    # a server that does not stop

    my $before = sockets($worker);
    my $far = lingering($version, $c, $s, $context);

    is($far->rest . $far->{end}, 'eof', "$version endless, told");

    my $raw = delete $far->{tls};
    $far->{end} = '';
    my $sent = 0;

    {
        local $Test::Nginx::FtpConn::QUIET = 1;

        until ($far->{end} || $sent > 2 ** 26) {
            $far->_wait('write');
            $sent += $far->write_some('x' x 65536) // last;
        }
    }

    cmp_ok($sent, '<', 2 ** 26, "$version endless, cut off");
    ok($t->wait_for('the last socket', sub { sockets($worker) == $before }),
        "$version endless, closed");
    $far->{tls} = $raw;
}

# ---- only so many: the next ones end as any nginx ends them

{
    my $context = $tls->context(cert => $cert, version => 1.2);
    my ($c, $s) = $legs{implicit}->ready('plain', 'many',
        serve => { context => $context });
    my $before = sockets($worker);
    my @all = map { lingering(1.2, $c, $s, $context) } 1 .. 30;

    for (@all) {
        $_->rest;
        like($_->{end}, qr/^(?:eof|reset|late reset)$/, 'many, each ends');
    }

    my $kept = sockets($worker) - $before;
    is($kept, 20, 'one in eight connections');
    $_->close for @all;
    ok($t->wait_for('the last socket', sub { sockets($worker) == $before }),
        'many, closed');
}

# ---- a session that ends, a reload, and the shutdown's end

{
    my $context = $tls->context(cert => $cert);
    my ($c, $s) = $legs{explicit}->ready('plain', 'reload',
        serve => { context => $context });
    my ($quick, $slow) = map { lingering(1.3, $c, $s, $context) } 1, 2;

    $_->close for $c, $s;
    $t->reload(conf(), @run, main => 'worker_shutdown_timeout 1s;');

    is($quick->rest . $quick->{end}, 'eof', 'reload, told');
    $quick->close;

    # it does not close: the worker does, and goes
    is($slow->rest . $slow->{end}, 'eof', 'reload, told as well');
    ok($t->wait_for('the old worker to end', sub {
        !grep { $_ == $worker } $t->workers }), 'reload, the old worker ends');

    ($c, $s) = $legs{explicit}->ready('plain', 'after a reload',
        serve => { context => $context });
    $legs{explicit}->transfers($c, $s, 'after a reload', 0, 1);
}

# ---- no tickets for clients on data connections

for my $version (1.2, 1.3) {
    my ($c, $s) = $legs{explicit}->ready('explicit', "tickets $version",
        client => { version => $version });

    for my $verb ('RETR', 'STOR') {
        my ($near) = $legs{explicit}->transfer($c, $s, "tickets $version", 1, 1,
            'PASV', $verb, client => { version => $version });

        # in TLS 1.2 they are part of the handshake
        is(Net::SSLeay::SESSION_is_resumable($near->tls_session),
            $version == 1.3 ? 0 : 1, "tickets $version $verb");
    }
}

$t->done;
