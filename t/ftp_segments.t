#!/usr/bin/perl

# Segments of the server (R18, R19): what may become a passive reply is held
# and leaves in one piece, what cannot is passed on at once.

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

# R18

$c->command('PASV');
$s->line;
$s->send('2', '27 Enter', 'ing Passive Mode (10,0,0,5,4,8', "0)\r", "\n");

$c->fill;
like($c->waiting, qr/\A227 Entering Passive Mode \(127,0,0,1,\d+,\d+\)\r\n\z/,
    'R18 one piece');
$c->line;

# nobody waits for the rest of these

at_once('R18 preliminary', '1');
at_once('R18 negative', '5');
at_once('R18 other', '21');
at_once('R18 transfer end', '226');
at_once('R18 first line', '230-');
at_once('R18 half a line', "250 wor");

# inside a multi-line reply nothing can become one

$c->command('NOOP');
$s->line;
$s->send("214-a\r\n227");
is($c->bytes(10), "214-a\r\n227", 'R18 inside a reply');
$s->send(" b\r\n214 c\r\n");
is($c->line . $c->line, " b\r\n214 c\r\n", 'R18 its end');

# a command is not held back either

$c->send('LIS');
$c->taken;
$c->send("T\r\n");
is($s->line, "LIST\r\n", 'command in two');
$s->send("150 a\r\n226 b\r\n");
is($c->line . $c->line, "150 a\r\n226 b\r\n", 'its replies');

# R19

my $listener = $server->passive;
my $numbers = $listener->hostport;

$c->send("PASV\r\nLIST\r\n");
is($s->line . $s->line, "PASV\r\nLIST\r\n", 'R19 commands');
$s->send("227 Passive ($numbers)\r\n150 here\r\n226 done\r\n");

my $reply = $c->line;
ok($t->in_range($c->passive_port($reply), 10, 20), 'R19 227');
is($c->line . $c->line, "150 here\r\n226 done\r\n", 'R19 the rest');

my $near = $c->data($c->passive_port($reply));
my $far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'R19 data');

$t->done;

sub at_once {
    my ($name, $first) = @_;

    $c->command('NOOP');
    $s->line;
    $s->send($first);
    is($c->bytes(length $first), $first, $name);

    # what ends the reply that has begun so
    my $rest = length $first <= 3 ? '0' x (3 - length $first) . " x\r\n"
        : $first =~ /^(\d+)-/ ? "\r\n$1 x\r\n" : "ds\r\n";

    $s->send($rest);
    is($c->bytes(length $rest), $rest, "$name rest");

    if ($first =~ /^1/) {
        $s->send("200 final\r\n");
        is($c->line, "200 final\r\n", "$name final");
    }
}
