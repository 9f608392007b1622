#!/usr/bin/perl

# IPv6 on either side.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;

plan(skip_all => 'no IPv6')
    unless eval { Test::Nginx::FtpServer->new(addr => '::1') };

my $four = $t->server;
my $six = $t->server(addr => '::1');
my $range = "min_port=${\$t->port(10)} max_port=${\$t->port(20)}";

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        listen [::1]:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m $range;
        proxy_pass ${\$four->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        listen [::1]:${\$t->port(1)};
        ftp_ctrl zone=ftp $range;
        proxy_pass ${\$six->at};
    }

    server {
        listen [::]:${\$t->port(2)} ipv6only=off;
        ftp_ctrl zone=two:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        proxy_pass ${\$four->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        listen [::1]:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }

    server {
        listen [::]:${\$t->range(30, 40)} ipv6only=off;
        ftp_data zone=two;
    }
EOF

my ($c, $s);

# EPSV, each with each

for my $client ('127.0.0.1', '::1') {
    for my $n (0, 1) {
        my $server = $n ? $six : $four;
        my $name = "$client to " . ($n ? '::1' : '127.0.0.1');

        ($c, $s) = $t->session($server, addr => $client, port => $t->port($n));

        my ($near, $far) = $t->data($c, $s, 'EPSV');
        is($far->local_addr, $n ? '::1' : '127.0.0.1', "$name target");
        is($far->peer_addr, $s->peer_addr, "$name source");

        $far->send($name);
        $near->send($name);
        is($near->bytes(length $name) . $far->bytes(length $name),
            $name . $name, "$name data");
        $far->finish;
        is($near->ended, 'eof', "$name end");

        # EPSV with the client's family
        ($near, $far) = $t->data($c, $s, $client =~ /:/ ? 'EPSV 2' : 'EPSV 1');
        $far->finish;
        is($near->ended, 'eof', "$name with family");
    }
}

# the other protocol's client is a stranger

($c, $s) = $t->session($four, addr => '::1');
my $listener = $four->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));
is(Test::Nginx::FtpClient->connect(port => $port)->ended, 'reset',
    'IPv4 stranger');
my $near = $c->data($port);
my $far = $listener->accept;
$far->finish;
is($near->ended, 'eof', 'IPv6 client');

# PASV over IPv6 has no answer

$c->send("NOOP\r\nPASV\r\nNOOP\r\n");
is($s->line, "NOOP\r\n", 'PASV from IPv6');
$s->send("200 one\r\n");
is($c->line, "200 one\r\n", 'reply before');

# whether the server is asked at all is the proxy's business
my $line = $s->line;
if ($line eq "PASV\r\n") {
    $s->send("227 (${\$listener->hostport})\r\n");
    $line = $s->line;
}
is($line, "NOOP\r\n", 'command behind');
like($c->line, qr/\A425 [^\r\n]+\r\n\z/, 'PASV 425');
$s->send("200 two\r\n");
is($c->line, "200 two\r\n", 'reply behind');

# PASV to a server on IPv6: its port counts

($c, $s) = $t->session($six, port => $t->port(1));
$listener = $six->passive;
$c->command('PASV');
$s->line;
$s->send("227 (${\$listener->hostport('0.0.0.0')})\r\n");
$near = $c->data($c->passive_port($c->line));
$far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'PASV to IPv6');

# an IPv4 client on a socket of both kinds is an IPv4 client

($c, $s) = $t->session($four, port => $t->port(2));
$listener = $four->passive;
my $reply = $t->passive($c, $s, $listener);
is($c->passive_addr($reply), '127.0.0.1', 'mapped address');
$port = $c->passive_port($reply);
ok($t->wait_log(qr/ftp reserved port $port for 127\.0\.0\.1, target 127/),
    'mapped client');
$near = $c->data($port);
$far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'mapped data');

$t->done;
