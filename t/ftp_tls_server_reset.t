#!/usr/bin/perl

# A data connection whose TLS toward the server does not come about: the server
# sees a reset, for a FIN would end a file that it has not got, also where the
# worker is killed.

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

my $dir = $t->dir;
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] } 'server', 'stranger';

sub ctrl {
    my ($port, $more, $listen) = @_;

    my $zone = $port ? 'ftp' : 'ftp:1m';

    return "server { listen 127.0.0.1:${\$t->port($port)}" . ($listen // '')
        . "; ftp_ctrl zone=$zone min_port=${\$t->port(10)} "
        . "max_port=${\$t->port(29)}; proxy_pass ${\$server->at}; $more }\n";
}

$t->run(<<"EOF");
    $certificates
    ftp_client_mode any;
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate $dir/ca.crt;
    proxy_ssl_name server;
    log_format data '\$ftp_data_status';

${\ctrl(0, 'ftp_auth_tls on;')}
${\ctrl(1, '', ' ssl')}
${\ctrl(2, 'ftp_auth_tls on; ftp_proxy_auth_tls on;')}
${\ctrl(3, 'ftp_proxy_auth_tls on;', ' ssl')}
    server {
        listen 127.0.0.1:${\$t->range(10, 29)};
        ftp_data zone=ftp;
        access_log logs/data.log data;
    }
EOF

my %legs = map {
    my ($way, $port) = @$_;

    $way => Test::Nginx::FtpLegs->new($t,
        server => $server,
        serve  => { cert => $cert{server}, explicit => $way eq 'explicit' },
        ports  => { plain => $port, explicit => $port, implicit => $port + 1 },
    );
} ['implicit', 0], ['explicit', 2];

my $lines = 0;

# A transfer of which the server has got the proxy's hello, and the proxy all
# that the client sends before it knows more.
sub begun {
    my ($c, $s, $kind, $mode, $verb) = @_;

    my ($near, $far);

    if ($mode eq 'PORT') {
        ($near, $far) = $t->active_data($c, $s, $mode);

    } else {
        my $listener = $t->server(addr => $s->local_addr);
        $near = $c->data($c->passive_port($t->passive($c, $s, $listener, $mode)));
        $far = $listener->accept;
    }

    is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$verb 150");

    if ($kind ne 'plain') {
        # its handshake waits for the server's
        my $hello = $tls->prepare($near)->hello;
        $near->send_raw($hello);

    } elsif ($verb eq 'STOR') {
        $near->send('data');
        $near->finish;
    }

    like($far->bytes(3), qr/\A\x16\x03/, "$verb hello");

    return ($near, $far);
}

# All of it ends with resets.
sub is_reset {
    my ($name, $near, $far) = @_;

    $far->rest;
    is($far->{end}, 'reset', "$name, server's end");
    is($near->ended, 'reset', "$name, client's end");

    return;
}

# What the server does in the place of a handshake.
my %faults = (
    finishes  => sub { $_[0]->finish },
    clear     => sub { $_[0]->send("150 here it comes\r\n") },
    alert     => sub { $_[0]->send("\x15\x03\x03\x00\x02\x02\x28") },
    stranger  => sub { $tls->serve($_[0], cert => $cert{stranger})->handshake },
    'stranger 1.2' => sub {
        my $context = $tls->context(cert => $cert{stranger}, version => 1.2);
        $tls->serve($_[0], context => $context)->handshake;
    },
);

for my $way ('implicit', 'explicit') {
    for my $kind ('plain', 'explicit', 'implicit') {
        my $name = "$way server, $kind client";
        my ($c, $s) = $legs{$way}->ready($kind, $name);

        for my $fault (sort keys %faults) {
            for my $mode ('EPSV', 'PORT') {
                for my $verb ('RETR', 'STOR') {
                    my $what = "$name, $fault $mode $verb";
                    my ($near, $far) = begun($c, $s, $kind, $mode, $verb);

                    # the hello of the server is still to be read
                    $far->{in} = "\x16\x03\x01" . $far->{in};
                    $faults{$fault}->($far);
                    is_reset($what, $near, $far);
                    is(($t->wait_access(++$lines, 'logs/data.log'))[-1], 'cut',
                        "$what status");

                    $s->send("426 aborted\r\n");
                    is($c->line, "426 aborted\r\n", "$what 426");
                }
            }
        }

        is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
    }
}

# ---- a server that gives up before any transfer command: no network's fault

for my $way ('implicit', 'explicit') {
    my ($c, $s) = $legs{$way}->ready('plain', "$way early");

    for my $how ('reset', 'finish') {
        my $listener = $t->server(addr => $s->local_addr);
        my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
        my $far = $listener->accept;

        like($far->bytes(3), qr/\A\x16\x03/, "$way early $how, hello");
        $far->$how;
        is($near->ended, 'reset', "$way early $how, client's end");
        is(($t->wait_access(++$lines, 'logs/data.log'))[-1], 'cut',
            "$way early $how status");
    }
}

is(scalar $t->lines(qr/is a firewall between/), 0, 'no firewall');

# ---- a worker that is killed meanwhile

for my $kind ('plain', 'explicit') {
    for my $mode ('EPSV', 'PORT') {
        for my $verb ('RETR', 'STOR') {
            my $name = "killed, $kind client $mode $verb";
            my ($c, $s) = $legs{explicit}->ready($kind, $name);
            my ($near, $far) = begun($c, $s, $kind, $mode, $verb);

            $t->kill_worker($_) for $t->workers;
            is_reset($name, $near, $far);
        }
    }
}

$t->done(allow => qr/worker process \d+ exited on signal 9/);
