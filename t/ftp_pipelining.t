#!/usr/bin/perl

# C6: many commands in one segment; replies, the proxy's own among them, come
# in the order of the commands.

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

# C6

my ($c, $s) = $t->session($server);
my $listener = $server->passive;
my $commands = "USER x\r\nPASS y\r\nPASV\r\nLIST\r\n";

$c->send($commands);
is($s->bytes(length $commands), $commands, 'C6 commands');
$s->send("331 who\r\n230-in\r\n230 now\r\n227 (${\$listener->hostport})\r\n"
    . "150 here\r\n");
is($c->line . $c->reply, "331 who\r\n230-in\r\n230 now\r\n", 'C6 login');

my $near = $c->data($c->passive_port($c->line));
my $far = $listener->accept;
$far->send('list');
$far->close;
is($near->rest, 'list', 'C6 data');
is($c->line, "150 here\r\n", 'C6 preliminary');
$s->send("226 done\r\n");
is($c->line, "226 done\r\n", 'C6 final');

# local replies wait for their turn

$c->send("NOOP\r\nAUTH TLS\r\nNOOP\r\nPORT 1,2,3,4,5,6\r\nEPRT x\r\nPWD\r\n");
is($s->line . $s->line . $s->line, "NOOP\r\nNOOP\r\nPWD\r\n",
    'only what is the server\'s');
$s->send("200 one\r\n");
is(codes(2), '200 502', 'first and its next');
$s->send("200 two\r\n257 three\r\n");
is(codes(4), '200 504 501 257', 'the others');

# with nothing outstanding at once

$c->send("AUTH TLS\r\nLPSV\r\nAUTH TLS\r\n");
is(codes(3), '502 502 502', 'at once');

# a preliminary reply is not the end of a command

$c->send("RETR x\r\nAUTH TLS\r\n");
is($s->line, "RETR x\r\n", 'transfer');
$s->send("150 here\r\n", "110 still\r\n", "226 done\r\n");
is(codes(4), '150 110 226 502', 'after the final');

# though a second 150 may be, and whatever follows keeps step

for my $end ('', "226 done\r\n") {
    my $name = $end ? 'a final follows' : 'none follows';

    $c->send("RETR x\r\nAUTH TLS\r\n");
    is($s->line, "RETR x\r\n", "transfer, $name");
    $s->send("150-here\r\n150 x\r\n", "150 1 second\r\n", $end);
    is($c->reply . codes(2), "150-here\r\n150 x\r\n150 502", "second 150, $name");
    is($c->line, $end, "passed on, $name") if $end;

    my $next = $server->passive;
    $c->send("NOOP\r\nAUTH TLS\r\nPASV\r\n");
    is($s->line . $s->line, "NOOP\r\nPASV\r\n", "the next, $name");
    $s->send("200 noop\r\n", "227 (${\$next->hostport})\r\n");
    is(codes(2), '200 502', "in step, $name");
    ok($c->passive_port($c->line), "port, $name");
}

# and 350 is one

$c->send("RNFR a\r\nAUTH TLS\r\nRNTO b\r\n");
is($s->line . $s->line, "RNFR a\r\nRNTO b\r\n", 'rename');
$s->send("350 go on\r\n250 done\r\n");
is(codes(3), '350 502 250', 'intermediate is final');

# never in the middle of another reply

$c->command('HELP');
is($s->line, "HELP\r\n", 'help');
$s->send("214-one\r\n");
is($c->line, "214-one\r\n", 'help begins');
$c->command('AUTH TLS');
$c->taken;
$s->send(" two\r\n");
is($c->line, " two\r\n", 'help goes on');
$s->send("214 three\r\n");
is(codes(2), '214 502', 'help ends');

# nor of an unsolicited one

$s->send("120-patience\r\n");
is($c->line, "120-patience\r\n", 'unsolicited begins');
$c->command('AUTH TLS');
$c->taken;
$s->send("120 please\r\n");
is(codes(2), '120 502', 'unsolicited ends');

# answers in one go for PASV, refused and granted

my @listeners = map { $server->passive } 1 .. 2;

$c->send("PASV\r\nPORT 1,2,3,4,5,6\r\nPASV\r\nAUTH TLS\r\nPASV\r\nEPSV\r\n");
is(join('', map { $s->line } 1 .. 4), "PASV\r\nPASV\r\nPASV\r\nEPSV\r\n",
    'passive commands');
$s->send("227 (${\$listeners[0]->hostport})\r\n530 no\r\n227 none\r\n"
    . "229 (|||${\$listeners[1]->port}|)\r\n");

my $first = $c->line;
is(codes(4), '504 530 502 425', 'passive replies');
my $last = $c->line;

$near = $c->data($c->passive_port($last));
$far = $listeners[1]->accept;
$far->send('x');
$far->close;
is($near->rest, 'x', 'last one counts');

# the end

$c->send("NOOP\r\nQUIT\r\n");
is($s->line . $s->line, "NOOP\r\nQUIT\r\n", 'quit');
$s->send("200 ok\r\n221 bye\r\n");
$s->close;
is($c->rest, "200 ok\r\n221 bye\r\n", 'last replies');

# a local reply that waits when the server goes

($c, $s) = $t->session($server);
$c->send("NOOP\r\nAUTH TLS\r\n");
$s->line;
$s->send("421 bye\r\n");
$s->close;
like($c->rest, qr/\A421 bye\r\n(?:502 [^\r\n]*\r\n)?\z/, 'server goes');

$t->done;

sub codes {
    my ($n) = @_;

    return join ' ', map { substr $c->line, 0, 3 } 1 .. $n;
}
