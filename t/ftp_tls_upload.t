#!/usr/bin/perl

# 64 MiB over TLS on one leg and on both, into a slow server, and out of one to a
# slow client: every byte once, in order, and no more memory than buffers have.

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
my ($server, $private) = map { $t->server } 1, 2;
my $certificates = $tls->certificates($t);

$t->run(<<"EOF", workers => 1);
    $certificates
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_auth_tls on;
        proxy_ssl on;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        ftp_proxy_auth_tls on;
        proxy_pass ${\$private->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        ftp_data zone=ftp;
    }
EOF

my $size = $ENV{TEST_NGINX_VALGRIND} ? 2 ** 21 : 2 ** 26;

# a block that tells its place
sub block {
    my ($n) = @_;

    return pack('N', $n) x 4096;
}

# Sends all blocks from one end, reads them at the other; what went wrong.
sub move {
    my ($from, $to) = @_;

    my ($sent, $got, $rest, $in) = (0, 0, '', '');
    my $until = Time::HiRes::time() + 40;

    while (1) {
        return 'deadline' if Time::HiRes::time() > $until;

        if (!length $rest && $sent < $size) {
            $rest = block($sent / 16384);
            $sent += 16384;
        }

        my $moved = 0;

        if (length $rest) {
            my $n = $from->write_some($rest) // return "cut at $got";
            substr $rest, 0, $n, '';
            $moved = $n;
            $from->finish if $sent == $size && !length $rest;
        }

        # the reader is asked seldom while the writer makes progress
        next if $moved;

        my $n = $to->fill(Time::HiRes::time() + ($rest eq '' ? 1 : 0.001));
        last if !$n && $to->{end};

        while (length $to->{in} >= 16384) {
            return "wrong bytes at $got"
                if substr($to->{in}, 0, 16384, '') ne block($got / 16384);
            $got += 16384;
        }
    }

    return "$got bytes" if $got != $size;

    return $to->{end} eq 'eof' ? '' : $to->{end};
}

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $private,
    serve  => {
        cert     => [map { $t->dir . "/server.$_" } 'crt', 'key'],
        explicit => 1,
    },
    ports  => { plain => 1, explicit => 1 },
);

# A session, and how its data connections are made: the client's end, the
# server's.
sub session {
    my ($kind, %arg) = @_;

    if ($kind eq 'offload') {
        my ($c, $s) = $tls->explicit($t, $server, %arg);
        is($c->protect, '', 'PROT P');
        return ($c, $s, sub { $tls->tls_data($t, $c, $s, 'PASV', %arg, @_) });
    }

    my $client = $kind eq 'both' ? 'explicit' : 'plain';
    my $context = $tls->context(version => $arg{version}, %{ $legs->{serve} });
    my ($c, $s) = $legs->ready($client, $kind,
        serve => { context => $context }, client => \%arg);

    return ($c, $s, sub {
        my ($near, $far) = $kind eq 'both'
            ? $tls->raw_data($t, $c, $s, 'PASV', %arg, @_)
            : $t->data($c, $s, 'PASV', @_);

        # an answer to nginx's close_notify would meet a closed socket
        $tls->serve($far, context => $context, mute => 1)->handshake
            or die "no handshake\n";
        die "no handshake\n" if $kind eq 'both' && !$near->handshake;

        return ($near, $far);
    });
}

for my $case (map { [$_, 1.2], [$_, 1.3] } 'offload', 'both', 'server') {
    my ($kind, $version) = @$case;
    my $name = "$kind $version";
    my ($c, $s, $data) = session($kind, version => $version);

    my $before = $t->memory;

    my ($near, $far) = $data->($version == 1.2 ? (rcvbuf => 8192) : ());
    is($t->dialog($c, $s, 'STOR f' => '150 now'), '', "STOR $name");
    is(move($near, $far), '', "upload $name");
    is($near->ended, 'eof', "upload end $name");

    ($near, $far) = $data->();
    is($t->dialog($c, $s, 'RETR f' => '150 now'), '', "RETR $name");
    is(move($far, $near), '', "download $name");
    is($far->ended, 'eof', "download end $name");

    cmp_ok($t->memory - $before, '<', 4096, "memory $name")
        unless $ENV{TEST_NGINX_VALGRIND};
}

$t->done;
