#!/usr/bin/perl

# C18: a browser that was tricked into talking to the FTP port is hung up on.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

for my $verb (qw(GET POST HEAD PUT OPTIONS CONNECT TRACE DELETE PATCH get)) {
    my ($c, $s) = $t->session($server);

    $c->send("$verb / HTTP/1.1\r\nHost: x\r\n\r\nUSER x\r\nPASV\r\n"
        . "PORT 127,0,0,1,200,1\r\n");

    is($c->rest, '', "C18 $verb no answer");
    like($c->ended, qr/^(?:eof|reset)$/, "C18 $verb closed");
    is($s->rest, '', "C18 $verb not passed");
}

# what came before it is passed, what follows is not

my ($c, $s) = $t->session($server);
$c->send("NOOP\r\nGET / HTTP/1.1\r\nNOOP\r\n");
like($s->rest, qr/\A(?:NOOP\r\n)?\z/, 'command before');
is($c->rest, '', 'closed');

# split anywhere

($c, $s) = $t->session($server);
$c->send('P', 'OS', 'T ', '/ ', "HTTP/1.1\r", "\n");
is($c->rest, '', 'C18 in segments');
is($s->rest, '', 'C18 in segments not passed');

# its reservation dies with it

($c, $s) = $t->session($server);
my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));
$c->send("GET / HTTP/1.1\r\n");
is($c->rest, '', 'with a reservation');
$t->wait_log(qr/released port $port/);
is(Test::Nginx::FtpClient->connect(port => $port)->ended, 'reset',
    'its port is dead');
ok(!$listener->touched, 'server untouched');

# and these are FTP

($c, $s) = $t->session($server);
is($t->dialog($c, $s, 'OPTS UTF8 ON' => '200 ok', 'DELE x' => '250 ok',
    'HOST example.com' => '220 ok', 'SITE GET' => '200 ok',
    'RETR GET' => '550 no', 'HELP POST' => '214 ok'), '', 'FTP verbs');

$t->done;
