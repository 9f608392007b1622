#!/usr/bin/perl

# R14: a 227 or 229 that nobody asked for is never passed on.

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

my ($c, $s) = $t->session($server);

# it answers another command

for my $reply ('227 Passive (10,0,0,5,195,80)', '229 Extended (|||6446|)',
    "227-x\r\n227 Passive (10,0,0,5,195,80)")
{
    my ($code) = $reply =~ /^(\d+.)/;

    $c->command('NOOP');
    is($s->line, "NOOP\r\n", "$code command");
    $s->send("$reply\r\n");
    like($c->line, qr/\A425 [^\r\n]*\r\n\z/, "$code becomes 425");

    is($t->dialog($c, $s, NOOP => '200 in step'), '', "$code in step");
}

# it answers nothing

$s->send("227 Passive (10,0,0,5,195,80)\r\n");
is($t->dialog($c, $s, NOOP => '200 in step'), '', '227 swallowed');

$s->send("229-Extended (|||6446|)\r\nx\r\n229 y\r\n");
is($t->dialog($c, $s, NOOP => '200 in step'), '', '229 swallowed');

# in front of a greeting

my $early = Test::Nginx::FtpClient->connect(port => $t->port(0));
my $far = $server->accept;
$far->send("227 Passive (10,0,0,5,195,80)\r\n", "220 hello\r\n");
is($early->line, "220 hello\r\n", 'before the greeting');
is($t->dialog($early, $far, NOOP => '200 in step'), '', 'greeting in step');

# one is asked for, two come

my $listener = $server->passive;
my $numbers = $listener->hostport;

$c->command('PASV');
$s->line;
$s->send("227 Passive ($numbers)\r\n227 Passive (10,0,0,5,195,80)\r\n");
my $reply = $c->line;
ok($t->in_range($c->passive_port($reply), 10, 20), 'first of two');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'second swallowed');

# it looks forward to the PASV in the queue, what was before it is dropped

$c->send("NOOP\r\nPASV\r\n");
is($s->line . $s->line, "NOOP\r\nPASV\r\n", 'two commands');
$s->send("227 Passive ($numbers)\r\n");
$reply = $c->line;
ok($t->in_range($c->passive_port($reply), 10, 20), 'looks forward')
    or diag($reply);
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'forward in step');

is($t->lines(qr/reserved port/), 2, 'only what was asked for');
ok($t->lines(qr/\[error\].*unexpected 227/) > 0, 'logged 227');
ok($t->lines(qr/\[error\].*unexpected (?:229|227 or 229)/) > 0, 'logged 229');

$t->done;
