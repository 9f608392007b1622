#!/usr/bin/perl

# Control and data connections owe each other no order: data before 150, 226
# before the end of data, a transfer that outlives its control connection.

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

# R20

my ($near, $far) = $t->data($c, $s);
$c->command('LIST');
is($s->line, "LIST\r\n", 'command');
$far->send('early');
is($near->bytes(5), 'early', 'R20 data before 150');
$s->send("150 here\r\n");
is($c->line, "150 here\r\n", '150 after');
$far->finish;
is($near->ended, 'eof', 'end before 226');
$s->send("226 done\r\n");
is($c->line, "226 done\r\n", '226 after');

# even before the command

($near, $far) = $t->data($c, $s);
$near->send('first');
is($far->bytes(5), 'first', 'data before the command');
is($t->dialog($c, $s, 'STOR x' => '150 here'), '', 'command after');

# 226 before the end

$s->send("226 done\r\n");
is($c->line, "226 done\r\n", '226 first');
$near->send('second');
$near->finish;
is($far->rest, 'second', 'data after 226');
is($far->ended, 'eof', 'end after 226');

# a new PASV while the old transfer lives

($near, $far) = $t->data($c, $s);
my ($near2, $far2) = $t->data($c, $s);
$far->send('one');
$far2->send('two');
is($near->bytes(3) . $near2->bytes(3), 'onetwo', 'two transfers');
$_->finish for $far, $far2;
is($near->ended . $near2->ended, 'eofeof', 'both end');

# the client connects before it says what it wants, the server accepts late

my $listener = $server->passive;
my $port = $c->passive_port($t->passive($c, $s, $listener));
$near = $c->data($port, before => 'waiting');
is($t->dialog($c, $s, 'STOR y' => '150 here'), '', 'late server');
$far = $listener->accept;
is($far->bytes(7), 'waiting', 'nothing lost');
$near->close;
is($far->ended, 'eof', 'late end');

# control goes, data stays

for my $how ('finish', 'close', 'reset') {
    my ($c, $s) = $t->session($server);
    my ($near, $far) = $t->data($c, $s);
    is($t->dialog($c, $s, 'RETR z' => '150 here'), '', "$how begins");

    # close and reset forget the socket
    $c->$how;
    $s->ended;

    $far->send('x' x 50_000);
    $far->finish;
    is(length $near->rest, 50_000, "$how data");
    is($near->ended, 'eof', "$how end");
}

# the server's control goes

my ($c2, $s2) = $t->session($server);
($near, $far) = $t->data($c2, $s2);
$s2->close;
is($c2->ended, 'eof', 'server control end');
$near->send('x' x 50_000);
$near->finish;
is(length $far->rest, 50_000, 'server control data');
is($far->ended, 'eof', 'server control data end');

$t->done;
