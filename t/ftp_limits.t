#!/usr/bin/perl

# Long lines and endless replies (R21, C11): long text streams through, what
# has to be held is bounded, and memory does not grow.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF", workers => 1);
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

my ($c, $s) = $t->session($server);

# R21: a line of 64 KiB is not waited for

my $long = '200 ' . 'x' x 65536;

$c->command('NOOP');
$s->line;
$s->send($long);
is($c->bytes(length $long), $long, 'R21 long line');
$s->send("\r\n");
is($c->line, "\r\n", 'R21 its end');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'R21 in step');

# an endless reply

my $before = $t->memory;
my $endless = join '', map { " line $_ 227 (1,2,3,4,5,6)\r\n" } 1 .. 200_000;

$c->command('HELP');
$s->line;
$s->send("214-begin\r\n");
is($c->line, "214-begin\r\n", 'R21 endless begins');

my $got = $s->pump($endless, $c, until => sub {
    length $_[0] >= length $endless;
});
ok($got eq $endless, 'R21 endless');

$s->send("214 end\r\n");
is($c->line, "214 end\r\n", 'R21 endless ends');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'R21 endless in step');

# passive replies that are too long to hold

too_long('R21 long 227', '227 ' . 'x' x 65536 . " (10,0,0,5,195,80)\r\n");
too_long('R21 endless 227', "227-begin\r\n"
    . join('', map { " line $_\r\n" } 1 .. 200_000)
    . "227 (10,0,0,5,195,80)\r\n");
too_long('R21 endless 229', "229-begin\r\n" . '227 x' x 500_000
    . "\r\n229 (|||6446|)\r\n", 'EPSV');

# C11: a long command line

my $almost = 'RETR ' . 'p' x 8100;
is($t->dialog($c, $s, $almost => '550 no such file'), '', 'C11 long path');

$c->command('PASV');
$s->line;
my $listener = $server->passive;
$s->send("227 (${\$listener->hostport})\r\n");
my $port = $c->passive_port($c->line);

$c->send('RETR ' . 'p' x 8200);
like($c->line, qr/\A500 [^\r\n]+\r\n\z/, 'C11 no end');
like($c->ended, qr/^(?:eof|reset)$/, 'C11 closed');
unlike($s->rest, qr/pppp/, 'C11 server saw nothing');

$t->wait_log(qr/released port $port/);
is(Test::Nginx::FtpClient->connect(port => $port)->ended, 'reset',
    'C11 reservation gone');

my ($c2, $s2) = $t->session($server);
$c2->send("NOOP\r\nRETR " . 'p' x 9000 . "\r\n");
is($s2->line, "NOOP\r\n", 'C11 command before');
$s2->send("200 ok\r\n");
is($c2->line, "200 ok\r\n", 'C11 reply before');
like($c2->line, qr/\A500 [^\r\n]+\r\n\z/, 'C11 with end');
like($c2->ended, qr/^(?:eof|reset)$/, 'C11 with end closed');
is($s2->rest, '', 'C11 server saw no more');

# valgrind keeps what was freed

cmp_ok($t->memory - $before, '<', $ENV{TEST_NGINX_VALGRIND} ? 262144 : 4096,
    'memory');

$t->done;

sub too_long {
    my ($name, $reply, $command) = @_;

    $command //= 'PASV';

    $c->command($command);
    $s->line;

    my $marker = "200 after\r\n";
    $c->command('NOOP');
    is($s->line, "NOOP\r\n", "$name next command");

    my $got = $s->pump($reply . $marker, $c, until => sub {
        $_[0] =~ /\Q$marker\E\z/;
    });

    like($got, qr/\A425 [^\r\n]+\r\n200 after\r\n\z/, $name);
}
