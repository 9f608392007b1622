#!/usr/bin/perl

# ABOR with telnet bytes and urgent data (C9); the one or two replies of an
# aborted transfer, STAT in the middle of one (C12).

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

# C9: text, and behind it what goes out of band

abor('C9 BSD', \"\xff\xf4\xff", "\xf2ABOR\r\n");
abor('C9 lftp', \"\xff", "\xf4\xff\xf2ABOR\r\n");
abor('C9 ncftp', \"\xff\xf4\xff\xf2", "ABOR\r\n");
abor('C9 in TLS', "\xff\xf4\xff\xf2ABOR\r\n");
abor('C9 BSD in two', "\xff\xf4", \"\xff", "\xf2ABOR\r\n");
abor('C9 urgent letter', \"\xff\xf4\xff\xf2A", "BOR\r\n");
abor('C9 IP only', "\xff\xf4ABOR\r\n");
abor('C9 DM only', "\xff\xf2abor\r\n");
abor('C9 lost byte', "\xff\xf4\xf2ABOR\r\n");
abor('C9 lost first', "\xf4\xff\xf2ABOR\r\n");
abor('C9 lost last', "\xff\xf4\xffABOR\r\n");
abor('C9 plain', "ABOR\r\n");
abor('C9 in bytes', split(//, "\xff\xf4\xff\xf2ABOR\r\n"));

# nginx reads up to the urgent byte and not beyond; what stands behind it may
# have come already

my $worker = $t->worker_of($c);

for my $way (['C9 BSD', "\xff\xf4\xff", "\xf2ABOR\r\n"],
    ['C9 lftp', "\xff", "\xf4\xff\xf2ABOR\r\n"],
    ['C9 ncftp', "\xff\xf4\xff\xf2", "ABOR\r\n"])
{
    my ($name, $urgent, $rest) = @$way;

    $t->paused($worker, sub {
        $c->send_urgent($urgent);
        $c->send($rest);
    });

    is($s->line, "ABOR\r\n", "$name at once");
    $s->send("226 none\r\n");
    is($c->line, "226 none\r\n", "$name at once answered");
}

# a command in front of it

$c->send("NOOP\r\n\xff\xf4");
$c->send_urgent("\xff");
$c->send("\xf2ABOR\r\n");
is($s->line . $s->line, "NOOP\r\nABOR\r\n", 'C9 behind a command');
$s->send("200 ok\r\n226 none\r\n");
is($c->line . $c->line, "200 ok\r\n226 none\r\n", 'C9 both answered');

# STAT may be announced so too

$c->send("\xff\xf4\xff\xf2STAT\r\n");
is($s->line, "STAT\r\n", 'telnet STAT');
$s->send("211 fine\r\n");
is($c->line, "211 fine\r\n", 'telnet STAT answered');

# C12: what a server answers to an aborted transfer

for my $replies ("426 cut\r\n226 aborted\r\n", "226 aborted\r\n",
    "225 aborted\r\n", "226 was done\r\n225 nothing to abort\r\n",
    "426 cut\r\n225 aborted\r\n")
{
    (my $name = "C12 $replies") =~ s/\D+/ /g;
    $name =~ s/^ /C12 /;
    $name =~ s/ $//;

    my ($near, $far) = begin($name);

    $c->send("ABOR\r\n");
    is($s->line, "ABOR\r\n", "$name ABOR");
    $far->reset;
    $s->send($replies);
    is($c->bytes(length $replies), $replies, $name);
    $near->close;

    in_step($name);
}

# the two replies with something between them

begin('C12 apart');
$c->send("ABOR\r\n");
$s->line;
$s->send("426 cut\r\n");
is($c->line, "426 cut\r\n", 'C12 first');
$c->send("NOOP\r\n");
is($s->line, "NOOP\r\n", 'C12 command between');
$s->send("226 aborted\r\n", "200 ok\r\n");
is($c->line . $c->line, "226 aborted\r\n200 ok\r\n", 'C12 second');
in_step('C12 apart');

# with only one reply, and commands behind

begin('C12 one');
$c->send("ABOR\r\nNOOP\r\nAUTH TLS\r\nPASV\r\n");
is($s->line . $s->line . $s->line, "ABOR\r\nNOOP\r\nPASV\r\n",
    'C12 commands behind');
my $listener = $server->passive;
$s->send("226 aborted\r\n200 ok\r\n227 (${\$listener->hostport})\r\n");
like($c->line . $c->line . $c->line,
    qr/\A226 aborted\r\n200 ok\r\n502 [^\r\n]+\r\n\z/, 'C12 in order');
ok($t->in_range($c->passive_port($c->line), 10, 20), 'C12 passive behind');
in_step('C12 one');

# ABOR with no transfer

for my $reply ("225 nothing\r\n", "226 nothing\r\n", "502 no ABOR\r\n") {
    $c->send("ABOR\r\n");
    is($s->line, "ABOR\r\n", 'idle ABOR');
    $s->send($reply);
    is($c->line, $reply, 'idle reply');
    in_step('idle');
}

# STAT in the middle of a transfer

my ($near, $far) = begin('C12 STAT');
$c->send("STAT\r\n");
is($s->line, "STAT\r\n", 'C12 STAT passed');
$s->send("213-busy\r\n 10 bytes\r\n213 end\r\n");
is($c->reply, "213-busy\r\n 10 bytes\r\n213 end\r\n", 'C12 STAT reply');
$far->finish;
is($near->ended, 'eof', 'C12 STAT data');
$s->send("226 done\r\n");
is($c->line, "226 done\r\n", 'C12 STAT final');
in_step('C12 STAT');

$t->done;

# Each argument is a segment; the last byte of a reference is urgent.
sub abor {
    my ($name, @parts) = @_;

    for my $part (@parts) {
        if (ref $part) {
            # the urgent byte may wait for the next one
            $c->send_urgent($$part);

        } else {
            $c->send($part);
            $c->taken;
        }
    }

    my $got = $s->line;
    is(uc $got, "ABOR\r\n", $name) or diag(unpack 'H*', $got);
    $s->send("226 none\r\n");
    is($c->line, "226 none\r\n", "$name answered");
    in_step($name);
}

# A transfer whose 150 is out.
sub begin {
    my ($name) = @_;

    my ($near, $far) = $t->data($c, $s);

    is($t->dialog($c, $s, 'RETR x' => '150 here'), '', "$name begins");

    return ($near, $far);
}

# Local replies and passive ones still find their commands.
sub in_step {
    my ($name) = @_;

    $c->command('AUTH TLS');
    like($c->line, qr/\A502 /, "$name local reply");
    is($t->dialog($c, $s, NOOP => '200 in step'), '', "$name in step");

    my ($near, $far) = $t->data($c, $s);
    is($t->dialog($c, $s, 'STOR y' => '150 now'), '', "$name next");
    $near->send('x');
    $near->finish;
    is($far->rest, 'x', "$name transfer");
    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name end");
}
