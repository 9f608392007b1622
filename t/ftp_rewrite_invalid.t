#!/usr/bin/perl

# A 227 or 229 that is no address, or one nobody may choose (R7, R9, R12):
# the client gets 425, sees nothing of it, and nothing is reserved.

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

invalid('R7 address field', PASV => '227 Passive (256,0,0,5,195,80)');
invalid('R7 port field', PASV => '227 Passive (10,0,0,5,256,80)');
invalid('R7 last field', PASV => '227 Passive (10,0,0,5,195,256)');
invalid('R7 port zero', PASV => '227 Passive (10,0,0,5,0,0)');
invalid('R7 five numbers', PASV => '227 Passive (10,0,0,5,195)');
invalid('R7 empty field', PASV => '227 Passive (10,0,0,5,,195)');
invalid('R7 negative', PASV => '227 Passive (10,0,0,5,-195,80)');
invalid('R7 400 digits', PASV => '227 Passive (10,0,0,5,195,' . 8 x 400 . ')');
invalid('R7 words', PASV => '227 Entering Passive Mode');
invalid('R7 nothing', PASV => '227');
invalid('R9 metadata port', PASV => '227 Passive (169,254,169,254,0,80)');
invalid('R9 local port', PASV => '227 Passive (127,0,0,1,0,22)');
invalid('R9 highest refused', PASV => '227 Passive (10,0,0,5,3,255)');

invalid('R12 no last bar', EPSV => '229 Extended (|||6446)');
invalid('R12 two bars', EPSV => '229 Extended (||6446|)');
invalid('R12 port zero', EPSV => '229 Extended (|||0|)');
invalid('R12 port too high', EPSV => '229 Extended (|||70000|)');
invalid('R12 mixed delimiters', EPSV => '229 Extended (||!6446|)');
invalid('R12 digit delimiter', EPSV => '229 Extended (111644611)');
invalid('R12 400 digits', EPSV => '229 Extended (|||' . 6 x 400 . '|)');
invalid('R12 words', EPSV => '229 Extended');
invalid('R9 low port', EPSV => '229 Extended (|||22|)');
invalid('R9 port 1023', EPSV => '229 Extended (|||1023|)');

# answered in its place and the session goes on

$c->send("NOOP\r\nPASV\r\nNOOP\r\n");
is($s->line . $s->line . $s->line, "NOOP\r\nPASV\r\nNOOP\r\n", 'pipelined');
$s->send("200 one\r\n227 Passive\r\n200 two\r\n");
like($c->line . $c->line . $c->line, qr/\A200 one\r\n425 [^\r\n]*\r\n200 two\r\n\z/,
    '425 in order');

my ($near, $far) = $t->data($c, $s);
$far->send('ok');
$far->finish;
is($near->rest, 'ok', 'transfer after');

is($t->lines(qr/reserved port/), 1, 'nothing reserved before');
is($t->lines(qr/\[error\].*server sent invalid 227 reply/), 11, 'logged 227');
is($t->lines(qr/\[error\].*server sent invalid 229 reply/), 8, 'logged 229');
is($t->lines(qr/\[error\].*server announced privileged data port/), 5,
    'logged ports');

$t->done;

sub invalid {
    my ($name, $command, $reply) = @_;

    $c->command($command);
    is($s->line, "$command\r\n", "$name command");
    $s->send("$reply\r\n");

    my $got = $c->reply;
    like($got, qr/\A425 [^\r\n]+\r\n\z/, $name);
    unlike($got, qr/10.0.0.5|195|169|6446/, "$name hidden");
}
