#!/usr/bin/perl

# Greetings and farewells of the server (R22, R23).

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

# R23

greeting('R23 wait', "120 wait\r\n", "220 ready\r\n");
greeting('R23 logged in', "230 you are in\r\n");
greeting('R23 multi-line', "220-Hi\r\n", "\r\n 220 x\r\n", "220-x\r\n",
    "220 ready\r\n");
greeting('R23 in bytes', split //, "220 ready\r\n");

# a client that does not wait for it

my $c = Test::Nginx::FtpClient->connect(port => $t->port(0));
my $s = $server->accept;
$c->send("USER x\r\nAUTH TLS\r\nPASV\r\n");
is($s->line . $s->line, "USER x\r\nPASV\r\n", 'commands before greeting');
$s->send("220 ready\r\n331 who\r\n530 log in\r\n");
is($c->line . $c->line, "220 ready\r\n331 who\r\n", 'greeting first');
like($c->line, qr/\A502 /, 'local reply third');
is($c->line, "530 log in\r\n", 'PASV refused');

# R22: an unsolicited 421 and the end, with a transfer under way

($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);
is($t->dialog($c, $s, 'RETR x' => '150 here'), '', 'R22 transfer');
$far->send('first ');
is($near->bytes(6), 'first ', 'R22 begins');

$s->send("421 going down\r\n");
$s->close;
is($c->line, "421 going down\r\n", 'R22 421');
is($c->ended, 'eof', 'R22 end');

$far->send('second');
$far->finish;
is($near->rest, 'second', 'R22 transfer goes on');
is($near->ended, 'eof', 'R22 transfer ends');

# 421 instead of a greeting

$c = Test::Nginx::FtpClient->connect(port => $t->port(0));
$s = $server->accept;
$s->send("421 too many users\r\n");
$s->close;
is($c->rest, "421 too many users\r\n", '421 greeting');
is($c->ended, 'eof', '421 end');

# the last bytes need no line end

($c, $s) = $t->session($server);
$s->send('421 bro');
$s->close;
is($c->rest, '421 bro', 'broken line');

# but what may be an address is not shown

($c, $s) = $t->session($server);
$c->command('PASV');
$s->line;
$s->send('227 Passive (10,0,0,5,195,80)');
$s->close;
is($c->rest, '', 'broken 227');

# the client's last bytes need none either

($c, $s) = $t->session($server);
$c->send('QUIT');
$c->finish;
is($s->rest, 'QUIT', 'broken command');

$t->done;

sub greeting {
    my ($name, @segments) = @_;

    my $c = Test::Nginx::FtpClient->connect(port => $t->port(0));
    my $s = $server->accept;
    my $all = join '', @segments;

    $s->send(@segments);
    is($c->bytes(length $all), $all, $name);

    # replies are counted from there
    $c->send("NOOP\r\nAUTH TLS\r\nNOOP\r\n");
    is($s->line . $s->line, "NOOP\r\nNOOP\r\n", "$name commands");
    $s->send("200 one\r\n200 two\r\n");
    like($c->line . $c->line . $c->line,
        qr/\A200 one\r\n502 [^\r\n]+\r\n200 two\r\n\z/, "$name in step");

    my ($near, $far) = $t->data($c, $s);
    $far->send('x');
    $far->finish;
    is($near->rest, 'x', "$name transfer");
}
