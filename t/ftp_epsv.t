#!/usr/bin/perl

# EPSV over IPv4: reply, data both ways, forms with arguments, a refusal.

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

my $listener = $server->passive;
my $reply = $t->passive($c, $s, $listener, 'EPSV');
my $port = $c->passive_port($reply);

is($reply, "229 Entering Extended Passive Mode (|||$port|)\r\n", 'reply');
ok($t->in_range($port, 10, 20), 'port in range');

my $near = $c->data($port);
my $far = $listener->accept;

$far->send('down');
$far->finish;
is($near->rest, 'down', 'download');
is($near->ended, 'eof', 'download end');

# C2: with an address family

for my $command ('EPSV 1', 'epsv 1', 'EPSV ') {
    ($near, $far) = $t->data($c, $s, $command);

    $near->send('up');
    $near->finish;
    is($far->rest, 'up', "C2 $command");
    is($far->ended, 'eof', "C2 $command end");
}

# R26, R25: a refusal is the server's own business

is($t->dialog($c, $s, 'EPSV 2' => '522 Network protocol not supported, use (1)'),
    '', 'R25 use (1)');
is($t->dialog($c, $s, 'EPSV 3' => '522 use (1,2)'), '', 'C2 EPSV 3');
is($t->dialog($c, $s, EPSV => '500 what'), '', 'R26 500');
is($t->dialog($c, $s, EPSV => '502 not here'), '', 'R26 502');

# but no other yes: clients look for an address in it

$c->command('EPSV');
$s->line;
$s->send("200 odd (|||6446|)\r\n");
like($c->line, qr/\A425 /, 'another code');
is($t->lines(qr/reserved port/), 4, 'nothing reserved');

# and PASV after it

($near, $far) = $t->data($c, $s, 'PASV');
$far->send('later');
$far->finish;
is($near->rest, 'later', 'R26 PASV after');

# a preliminary reply does not end it

$listener = $server->passive;
$c->command('EPSV');
$s->line;
$s->send("120 wait\r\n", "229 go (|||${\$listener->port}|)\r\n");
is($c->line, "120 wait\r\n", 'preliminary');
$near = $c->data($c->passive_port($c->line));
$far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'after preliminary');

# C2: after ALL it is the server that refuses

is($t->dialog($c, $s, 'EPSV ALL' => '200 only EPSV'), '', 'C2 ALL');
is($t->dialog($c, $s, 'PASV' => '501 not after ALL'), '', 'C2 ALL PASV');

($near, $far) = $t->data($c, $s, 'EPSV');
$far->send('all');
$far->finish;
is($near->rest, 'all', 'C2 ALL EPSV');

$t->done;
