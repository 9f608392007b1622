#!/usr/bin/perl

# PASV: a listing, a download, uploads, several in one login.

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

is($t->dialog($c, $s,
    'USER x' => '331 password',
    'PASS y' => '230 in',
    'TYPE I' => '200 binary'), '', 'login');

# the reply

my $listener = $server->passive;
my $reply = $t->passive($c, $s, $listener);
my $port = $c->passive_port($reply);

is($reply, sprintf("227 Entering Passive Mode (127,0,0,1,%d,%d).\r\n",
    $port >> 8, $port & 255), 'reply');
ok($t->in_range($port, 10, 20), 'port in range');
isnt($port, $listener->port, 'not the server port');

# a listing on it

my $near = $c->data($port);
my $far = $listener->accept;
is($far->peer_addr, '127.0.0.1', 'source address');
transfer('list', 'LIST', $far, $near, "-rw-r--r-- file\r\n");

# more of them in the same login

($near, $far) = $t->data($c, $s);
transfer('download', 'RETR file', $far, $near, join '', map { chr } 0 .. 255);

($near, $far) = $t->data($c, $s);
transfer('upload', 'STOR file', $near, $far, join '', map { chr } 0 .. 255);

($near, $far) = $t->data($c, $s);
transfer('empty download', 'RETR empty', $far, $near, '');

($near, $far) = $t->data($c, $s);
transfer('empty upload', 'STOR empty', $near, $far, '');

($near, $far) = $t->data($c, $s);
transfer('append', 'APPE file', $near, $far, "\r\n\0\xff227 x\r\n");

# nobody can tell the next port

my @ports = map { $c->passive_port($t->passive($c, $s, $listener)) } 1 .. 40;
my %steps;
$steps{($ports[$_] - $ports[$_ - 1]) % 11}++ for 1 .. $#ports;
cmp_ok(scalar keys %steps, '>', 3, 'ports at random');

# a dozen more than the range has ports

my $bad = 0;

for my $i (1 .. 23) {
    ($near, $far) = $t->data($c, $s);
    $far->send("part $i");
    $far->finish;
    $bad++ if $near->rest ne "part $i" || $near->ended ne 'eof';
}

is($bad, 0, 'many transfers');

is($t->dialog($c, $s, QUIT => '221 bye'), '', 'quit');
$s->close;
is($c->ended, 'eof', 'end');

$t->done;

sub transfer {
    my ($name, $command, $from, $to, $bytes) = @_;

    $c->command($command);
    is($s->line, "$command\r\n", "$name command");
    $s->send("150 here\r\n");
    is($c->line, "150 here\r\n", "$name begins");

    $from->send($bytes);
    $from->finish;
    is($to->rest, $bytes, "$name bytes");
    is($to->ended, 'eof', "$name end");
    $to->close;

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name ends");
}
