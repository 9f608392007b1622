#!/usr/bin/perl

# FEAT, AUTH, PBSZ, PROT, CCC and REIN as the proxy answers them for a server
# that knows no TLS, and what ftp_auth_tls and ftp_data_tls require.

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

my $data = join "\n", map {
    my $from = 10 * $_;
    my $range = $t->range($from, $from + 9);

    "server { listen 127.0.0.1:$range; ftp_data zone=z$_; }"
} 1 .. 4;

my @ctrl = map {
    my $from = 10 * $_;

    "ftp_ctrl zone=z$_:1m min_port=" . $t->port($from) . ' max_port='
        . $t->port($from + 9) . '; proxy_pass ' . $server->at . ';'
} 1 .. 4;

$t->run(<<"EOF");
    $certificates
    server { listen 127.0.0.1:${\$t->port(0)}; $ctrl[0] ftp_auth_tls on; }
    server { listen 127.0.0.1:${\$t->port(1)}; $ctrl[1] ftp_auth_tls only;
             ftp_data_tls required; }
    server { listen 127.0.0.1:${\$t->port(2)} ssl; $ctrl[2] }
    server { listen 127.0.0.1:${\$t->port(3)}; $ctrl[3] }
    server { listen 127.0.0.1:${\$t->port(4)} ssl; $ctrl[0] ftp_auth_tls on;
             ftp_data_tls required; }
    $data
EOF

# Commands that the proxy answers itself; what went wrong, or nothing.
sub answers {
    my ($c, $s, @turns) = @_;

    while (my ($command, $code) = splice @turns, 0, 2) {
        $c->command($command);
        my $reply = $c->reply;
        return "$command: $reply" if $reply !~ /\A$code .*\r\n\z/;
    }

    # nothing of it has come before this
    return $t->dialog($c, $s, NOOP => '200 ok');
}

sub feat {
    my ($c, $s) = @_;

    $c->command('FEAT');
    my $got = $s->line;
    return "server got $got" if $got ne "FEAT\r\n";

    $s->send("211-Features:\r\n EPSV\r\n AUTH TLS;TLS-C\r\n PBSZ\r\n SIZE\r\n"
        . " PROT\r\n CCC\r\n EPRT\r\n AUTH SSL\r\n UTF8\r\n211 End\r\n");

    return $c->reply;
}

my $plain = "211-Features:\r\n EPSV\r\n SIZE\r\n UTF8\r\n";
my $offer = " AUTH TLS\r\n AUTH SSL\r\n PBSZ\r\n PROT\r\n";
my $end = "211 End\r\n";

# before AUTH

my ($c, $s) = $t->session($server);

is(feat($c, $s), "$plain$offer$end", 'FEAT on');
is(answers($c, $s,
    'AUTH GSSAPI'    => 504,
    'AUTH KERBEROS_V4' => 504,
    'AUTH'           => '50[14]',
    'AUTH TLSX'      => 504,
    'PBSZ 0'         => 503,
    'PROT P'         => 503,
    'PROT C'         => 503,
    'CCC'            => '5\d\d',
), '', 'in clear');
is($t->dialog($c, $s,
    'USER x' => '331 password',
    'PASS y' => '230 in',
    'REIN'   => '220 again',
), '', 'login in clear');

# after

$tls->auth($c);

is(feat($c, $s), "$plain$offer$end", 'FEAT over TLS');
is(answers($c, $s,
    'AUTH TLS'     => 503,
    'AUTH SSL'     => 503,
    'auth gssapi'  => '50[34]',
    'PROT P'       => 503,
    'PROT C'       => 503,
    'PBSZ x'       => 501,
    'PBSZ'         => 501,
    'PBSZ -1'      => 501,
    'PROT P'       => 503,
    'PBSZ 1000'    => '200(?= PBSZ=0\r)',
    'PBSZ 0'       => 200,
    'PROT S'       => 536,
    'PROT E'       => 536,
    'PROT X'       => 504,
    'PROT'         => '50[14]',
    'prot p'       => 200,
    'PROT C'       => 200,
    'CCC'          => 534,
    'REIN'         => 502,
    'AUTH TLS'     => 503,
), '', 'over TLS');

# what SSL and TLS-P imply: private data, as with PROT P; TLS and TLS-C do not

for (['TLS', 0], ['TLS-C', 0], ['SSL', 1], ['TLS-P', 1], ['tls', 0],
    ['ssl', 1])
{
    my ($mechanism, $private) = @$_;

    my ($c, $s) = $t->session($server);

    $c->command("AUTH $mechanism");
    like($c->line, qr/\A234 .*\r\n\z/, "AUTH $mechanism");
    ok($tls->secure($c), "$mechanism handshake");

    my ($near, $far) = $private
        ? $tls->tls_data($t, $c, $s) : $t->data($c, $s);

    $far->send('data');
    $far->finish;
    is($near->rest, 'data', "$mechanism data");
    is($near->{end}, 'eof', "$mechanism data end");

    is(answers($c, $s, 'PROT C' => $private ? 200 : 503), '',
        "$mechanism PROT");
}

# only

($c, $s) = $t->session($server, port => $t->port(1));

is(answers($c, $s,
    'USER x'         => 530,
    'user anonymous' => 530,
    ' USER x'        => '5\d\d',
    "\xff\xf4USER x" => '5\d\d',
), '', 'USER before TLS');
is(feat($c, $s), "$plain$offer$end", 'FEAT only');

# neither is data to be had there

$c->command($_), like($c->line, qr/\A5/, "only: $_ before TLS")
    for 'RETR f', 'STOR f', 'LIST', 'NLST', 'MLSD', 'APPE f', 'STOU';

$tls->auth($c);

is($t->dialog($c, $s, 'USER x' => '331 password', 'PASS y' => '230 in'), '',
    'USER over TLS');

# required

is(answers($c, $s,
    'RETR f' => 522,
    'LIST'   => 522,
    'STOR f' => 522,
    'STOU'   => 522,
    'PBSZ 0' => 200,
    'NLST'   => 522,
    'PROT C' => 534,
    'LIST'   => 522,
    'PROT P' => 200,
    'PROT C' => 534,
), '', 'required');

my ($near, $far) = $tls->tls_data($t, $c, $s);
is($t->dialog($c, $s, 'RETR f' => '150 now'), '', 'RETR required');
$far->send('private');
$far->finish;
is($near->rest, 'private', 'data required');

# implicit without ftp_auth_tls

($c, $s) = $tls->implicit($t, $server, port => $t->port(2));

is(feat($c, $s), "$plain PBSZ\r\n PROT\r\n$end", 'FEAT implicit');
is(answers($c, $s, 'AUTH TLS' => 503, 'CCC' => 534), '', 'implicit');

# by old custom data is private there without PROT
($near, $far) = $tls->tls_data($t, $c, $s);
$far->send('private');
$far->finish;
is($near->rest, 'private', 'implicit data');

# PBSZ is not insisted upon
is(answers($c, $s, 'PROT C' => 200), '', 'implicit PROT C');
($near, $far) = $t->data($c, $s);
$far->send('clear');
$far->finish;
is($near->rest, 'clear', 'implicit data in clear');

# implicit where ftp_auth_tls is on as well, data required

($c, $s) = $tls->implicit($t, $server, port => $t->port(4));
is(answers($c, $s, 'AUTH TLS' => 503, 'PROT C' => 534), '', 'both');
($near, $far) = $tls->tls_data($t, $c, $s);
$far->send('private');
$far->finish;
is($near->rest, 'private', 'both data');

# off

($c, $s) = $t->session($server, port => $t->port(3));
is(feat($c, $s), "$plain$end", 'FEAT off');
is(answers($c, $s,
    'AUTH TLS'    => 502,
    'AUTH SSL'    => 502,
    'AUTH GSSAPI' => '50[24]',
    'CCC'         => 502,
), '', 'off');
is($t->dialog($c, $s, 'USER x' => '331 password'), '', 'off login');

$t->done;
