#!/usr/bin/perl

# The PROXY protocol in front of the proxy and behind it.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;

plan(skip_all => 'no realip module')
    unless $t->build_info =~ /--with-stream_realip_module/;

my $server = $t->server;
my $range = "min_port=${\$t->port(10)} max_port=${\$t->port(20)}";

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)} proxy_protocol;
        set_real_ip_from 127.0.0.1;
        ftp_ctrl zone=ftp:1m $range;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=two:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        proxy_pass ${\$server->at};
        proxy_protocol on;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)} proxy_protocol;
        set_real_ip_from 127.0.0.1;
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)};
        ftp_data zone=two;
    }
EOF

# in front

my ($c, $s) = $t->session($server,
    before => "PROXY TCP4 192.0.2.77 203.0.113.9 40000 21\r\n");
my $listener = $server->passive;
my $reply = $t->passive($c, $s, $listener);
my $port = $c->passive_port($reply);

is($c->passive_addr($reply), '203.0.113.9', 'balancer address');
ok($t->wait_log(qr/ftp reserved port $port for 192\.0\.2\.77, target 127\.0\.0\.1/),
    'real client reserves');

# it is the real client who counts

my $stranger = $c->data($port,
    before => "PROXY TCP4 192.0.2.78 203.0.113.9 40001 $port\r\n");
is($stranger->ended, 'reset', 'another client');
ok(!$listener->touched, 'server untouched');

my $near = $c->data($port,
    before => "PROXY TCP4 192.0.2.77 203.0.113.9 40002 $port\r\nup");
my $far = $listener->accept;
is($far->bytes(2), 'up', 'data behind the header');
$far->send('down');
$far->finish;
is($near->rest, 'down', 'data');

# a client on IPv6 behind the balancer

my ($c6, $s6) = $t->session($server,
    before => "PROXY TCP6 2001:db8::77 2001:db8::9 40000 21\r\n");
$reply = $t->passive($c6, $s6, $listener, 'EPSV');
$port = $c6->passive_port($reply);
ok($t->in_range($port, 10, 20), 'IPv6 client');
$near = $c6->data($port,
    before => "PROXY TCP6 2001:db8::77 2001:db8::9 40002 $port\r\n");
$far = $listener->accept;
$far->send('six');
$far->finish;
is($near->rest, 'six', 'IPv6 data');

# PASV has no answer for it, whether or not the server is asked

$c6->send("PASV\r\nNOOP\r\n");
my $line = $s6->line;
if ($line eq "PASV\r\n") {
    $s6->send("227 (${\$listener->hostport})\r\n");
    $line = $s6->line;
}
$s6->send("200 ok\r\n");
like($c6->line . $c6->line, qr/\A425 [^\r\n]+\r\n200 ok\r\n\z/, 'IPv6 PASV');

# behind: the header is no command

my $client = Test::Nginx::FtpClient->connect(port => $t->port(1));
my $peer = $server->accept;
like($peer->line, qr/\APROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 ${\$client->local_port} ${\$t->port(1)}\r\n\z/,
    'header to the server');
$peer->send("220 ready\r\n");
is($client->line, "220 ready\r\n", 'greeting');

$client->send("AUTH TLS\r\nNOOP\r\n");
is($peer->line, "NOOP\r\n", 'no command');
$peer->send("200 ok\r\n");
like($client->line . $client->line, qr/\A502 [^\r\n]+\r\n200 ok\r\n\z/,
    'in step');

($near, $far) = $t->data($client, $peer);
$far->send('x');
$far->finish;
is($near->rest, 'x', 'data to the server');

# a client that speaks at once

$client = Test::Nginx::FtpClient->connect(port => $t->port(1),
    before => "NOOP\r\n");
$peer = $server->accept;
like($peer->line, qr/\APROXY /, 'header first');
is($peer->line, "NOOP\r\n", 'early command');
$peer->send("220 ready\r\n200 ok\r\n");
is($client->line . $client->line, "220 ready\r\n200 ok\r\n", 'early reply');

$t->done;
