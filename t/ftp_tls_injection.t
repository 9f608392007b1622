#!/usr/bin/perl

# What is sent in clear around AUTH is never run inside TLS, and never reaches
# the server (CVE-2011-0411, CVE-2014-3556).

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

my $big = "DELE injected\r\n" x 4000;

# in the same segment: discarded, the handshake goes on

for ("DELE injected\r\n", "DELE inj", "\r\n", "DELE injected\r\nAUTH TLS\r\n",
    'x' x 9000, $big)
{
    my ($c, $s) = $t->session($server);

    my $name = length($_) . ' bytes behind AUTH';
    $c->send("AUTH TLS\r\n$_");
    like($c->line, qr/^234 /, "$name 234");

    # a longer tail may be read only after 234, as what it then is: no TLS
    my $done = $tls->prepare($c)->handshake;

    if ($done) {
        is($t->dialog($c, $s, NOOP => '200 ok'), '', "$name afterwards");
    } else {
        like($c->{end}, qr/alert|eof|reset/, "$name handshake fails");
        is($s->rest, '', "$name server");
    }

    ok($done, "$name handshake") if length $_ < 1000;
}

# the first half of a line in clear does not begin the first line of TLS

my ($c, $s) = $t->session($server);
$c->send("AUTH TLS\r\nDELE ");
like($c->line, qr/^234 /, 'half a line 234');
ok($tls->secure($c), 'half a line handshake');
$c->command('NOOP');
is($s->line, "NOOP\r\n", 'half a line');

# behind 234 and before the hello: no TLS

for my $bytes ("DELE injected\r\n", "\r\n", "USER x\r\nPASS y\r\n") {
    my ($c, $s) = $t->session($server);

    $c->command('AUTH TLS');
    like($c->line, qr/^234 /, 'before hello 234');
    $tls->prepare($c);
    $c->send_raw($bytes . $c->hello);
    ok(!$c->handshake, 'before hello');
    is($s->rest, '', 'before hello: server');
}

# behind commands that wait for their replies, where 234 waits as well

($c, $s) = $t->session($server);
$c->send("NOOP\r\nAUTH TLS\r\nDELE injected\r\n");
is($s->line, "NOOP\r\n", 'waiting');
$c->send("DELE more\r\n");
$c->taken;
$s->send("200 ok\r\n");
is($c->line, "200 ok\r\n", 'waiting reply');
like($c->line, qr/^234 /, 'waiting 234');
ok($tls->secure($c), 'waiting handshake');
is($t->dialog($c, $s, NOOP => '200 ok'), '', 'waiting afterwards');

# what the server says in the same segment comes after the handshake

($c, $s) = $t->session($server);
$c->send("NOOP\r\nAUTH TLS\r\n");
is($s->line, "NOOP\r\n", 'early');
$s->send("200 ok\r\n421 early\r\n");
is($c->line, "200 ok\r\n", 'early reply');
like($c->line, qr/^234 /, 'early 234');
ok($tls->secure($c), 'early handshake');
is($c->line, "421 early\r\n", 'early: inside TLS');

# the hello itself in the segment of AUTH, as an impatient client would: it is
# clear text, too.  The client gets no TLS, the server nothing.

($c, $s) = $t->session($server);
my $hello = do {
    my ($other) = $t->session($server);
    $tls->prepare($other)->hello;
};
$c->send("AUTH TLS\r\n$hello");
like($c->line, qr/^234 /, 'hello too early');
$c->finish;
$c->rest;
is($s->rest, '', 'hello too early: server');

# bytes of a client that ended in clear

($c, $s) = $t->session($server);
$c->send("AUTH TLS\r\nDELE injected");
$c->finish;
like($c->rest, qr/^234 [^\n]*\n\z/, 'FIN behind AUTH');
is($s->rest, '', 'FIN behind AUTH: server');

# inside TLS a pipelined line is a line

($c, $s) = $tls->explicit($t, $server);
$c->send("NOOP\r\nSYST\r\n");
is($s->line, "NOOP\r\n", 'pipelined');
is($s->line, "SYST\r\n", 'inside TLS');
$s->send("200 ok\r\n215 UNIX\r\n");
is($c->line, "200 ok\r\n", 'pipelined reply');
is($c->line, "215 UNIX\r\n", 'inside TLS reply');

$t->done;
