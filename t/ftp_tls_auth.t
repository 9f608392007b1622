#!/usr/bin/perl

# AUTH among other commands and replies: in pieces, behind outstanding ones, and
# server's bytes that come during the handshake.

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
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(30)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 30)};
        ftp_data zone=ftp;
    }
EOF

my $proceed = "234 Proceed with negotiation.\r\n";

# in pieces

my ($c, $s) = $t->session($server);
$c->send_bytewise("AUTH TLS\r\n");
is($c->line, $proceed, 'bytewise');
$tls->prepare($c);
$c->send_raw(split //, $c->hello);
ok($c->handshake, 'hello bytewise');
$c->send(split //, "NOOP\r\n");
is($s->line, "NOOP\r\n", 'command bytewise');
$s->send(split //, "200 ok\r\n");
is($c->line, "200 ok\r\n", 'reply bytewise');

# an end of line alone ends it

($c, $s) = $t->session($server);
$c->send("AUTH TLS\n");
is($c->line, $proceed, 'LF');
ok($tls->secure($c), 'LF handshake');
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'LF afterwards');

# behind commands that the server has not answered: 234 comes last, and TLS
# behind it

($c, $s) = $t->session($server);
$c->send("NOOP\r\nFEAT\r\nPORT 1,2,3,4,5,6\r\nAUTH TLS\r\n");
is($s->line, "NOOP\r\n", 'outstanding 1');
is($s->line, "FEAT\r\n", 'outstanding 2');
is($c->waiting, '', 'nothing overtakes');
$s->send("200 ok\r\n");
is($c->line, "200 ok\r\n", 'outstanding reply');
$s->send("211-Features:\r\n UTF8\r\n");
is($c->line, "211-Features:\r\n", 'half a reply');
is($c->line, " UTF8\r\n", 'more of it');
is($c->waiting, '', 'nothing within a reply');
$s->send("211 End\r\n");
$c->line for 1 .. 4;
is($c->line, "211 End\r\n", 'end of it');
like($c->line, qr/^504 /, 'local one');
is($c->line, $proceed, 'at last');
ok($tls->secure($c), 'handshake behind outstanding ones');
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'afterwards');

# behind PASV: the reservation lives through the handshake

($c, $s) = $t->session($server);
my $listener = $server->passive;
$c->send("PASV\r\nAUTH TLS\r\n");
is($s->line, "PASV\r\n", 'PASV in front');
$s->send("227 ok (${\$listener->hostport})\r\n");
my $port = $c->passive_port($c->line);
ok($t->in_range($port, 10, 30), 'port');
is($c->line, $proceed, '234 behind PASV');
ok($tls->secure($c), 'handshake behind PASV');
is($t->dialog($c, $s, 'RETR f' => '150 now'), '', 'RETR');
my $near = $c->data($port);
my $far = $listener->accept;
$far->send('clear');
$far->finish;
is($near->rest, 'clear', 'data as agreed before AUTH');

# server's bytes during the handshake wait, and come inside TLS

($c, $s) = $t->session($server);
$c->command('AUTH TLS');
is($c->line, $proceed, 'proceed');
$s->send("421 not any more\r\n");
$tls->prepare($c);
my $hello = $c->hello;
$c->send_raw(substr $hello, 0, 20, '');
$c->taken;
$s->send("421-more\r\n", "421 end\r\n");
is($c->{end} || $c->{in}, '', 'nothing in clear');
$c->send_raw($hello);
ok($c->handshake, 'handshake');
is($c->line, "421 not any more\r\n", 'comes after');
is($c->reply, "421-more\r\n421 end\r\n", 'and more');
$s->finish;
is($c->ended, 'eof', 'end of it');

# many of them: a flood neither breaks the handshake nor fills memory

($c, $s) = $t->session($server);
$c->command('AUTH TLS');
is($c->line, $proceed, 'proceed');
my $flood = "200-" . 'x' x 200 . "\r\n";
my $sent = 0;
while ($sent < 4_000_000) {
    my $n = $s->write_some($flood x 100) or last;
    $sent += $n;
}
cmp_ok($sent, '>', 10_000, 'flood');
ok($tls->secure($c), 'handshake within a flood');
is(length $c->bytes($sent), $sent, 'flood comes through');

# the server ends during the handshake: what it said comes, then the end

($c, $s) = $t->session($server);
$c->command('AUTH TLS');
is($c->line, $proceed, 'proceed');
$s->send("421 going\r\n");
$s->finish;
$tls->prepare($c);
if ($c->handshake) {
    is($c->rest, "421 going\r\n", 'last words');
} else {
    fail('last words');
}
like($c->{end}, qr/eof/, 'end behind them');

# 234 behind more than the client reads

($c, $s) = $t->session($server, rcvbuf => 4096);
$c->send("STAT\r\nAUTH TLS\r\n");
is($s->line, "STAT\r\n", 'STAT in front');
my $long = join '', "211-status\r\n", " line\r\n" x 40_000, "211 end\r\n";
my $got = Test::Nginx::FtpConn::pump($s, $long, $c, most => 3000,
    until => sub { $_[0] =~ /^234 .*\n/m });
ok($got eq $long . $proceed, '234 behind a long reply');
ok($tls->secure($c), 'handshake behind a long reply');
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'afterwards');

# AUTH again and again on one connection after a refused one

($c, $s) = $t->session($server);
for my $mechanism ('GSSAPI', 'X', 'KERBEROS_V4') {
    $c->command("AUTH $mechanism");
    like($c->line, qr/^504 /, "AUTH $mechanism");
}
$tls->auth($c);
is($t->dialog($c, $s, 'USER x' => '331 go on'), '', 'TLS after refusals');

$t->done;
