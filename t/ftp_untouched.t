#!/usr/bin/perl

# What only looks like a passive reply passes byte for byte (R13, R16, R17),
# and all else does too.

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

# R13: a greeting

my $c = Test::Nginx::FtpClient->connect(port => $t->port(0));
my $s = $server->accept;

same('R13 greeting', "220 Use PASV (1,2,3,4,5,6)\r\n");

# R13, R16: text inside other replies

asked('R13 help', 'HELP', "214-227 Entering Passive Mode (1,2,3,4,5,6)\r\n"
    . "227 Entering Passive Mode (1,2,3,4,5,6)\r\n214 End\r\n");
asked('R16 login', 'PASS y', "230-Hi\r\n"
    . "227 Entering Passive Mode (1,2,3,4,5,6)\r\n"
    . "229 Extended (|||6446|)\r\n230 ok\r\n");
asked('R16 other code', 'SITE x', "200-Hi\r\n227-x\r\n226 y\r\n200 ok\r\n");

# R17: replies that break the rules

asked('R17 blank line', 'FEAT', "211-Features\r\n\r\n UTF8\r\nMDTM\r\n211 End\r\n");
asked('R17 no text', 'NOOP', "226-a\r\nb\r\n226\r\n");
asked('R17 same code again', 'NOOP', "226-a\r\n226-b\r\n226 c\r\n");
asked('no text', 'NOOP', "200\r\n");
asked('bare LF', 'NOOP', "200 ok\n");
asked('bare LF inside', 'NOOP', "200-a\n227 b\n200 c\n");
asked('NUL', 'NOOP', "200 a\0b\r\n");
asked('CR inside', 'NOOP', "200 a\rb\r\r\n");
asked('telnet bytes', 'NOOP', "200 \xff\xf4\xff\xf2 x\r\n");
asked('8 bit', 'NOOP', '200 ' . join('', map { chr } 128 .. 255) . "\r\n");
asked('path with numbers', 'PWD', "257 \"/227 (1,2,3,4,5,6)\"\r\n");

# R25

asked('R25 use (1)', 'EPSV', "522 Bad network protocol, use (1)\r\n");

# nothing of this was taken for an address, and counting is still right

my ($near, $far) = $t->data($c, $s);
$far->send('x');
$far->finish;
is($near->rest, 'x', 'transfer after');
is($t->lines(qr/reserved port/), 1, 'one reservation');

# what the client says

for my $command ('SITE PASV', 'STAT', 'XPWD', 'MKD PASV', "CWD  \t two",
    'OPTS UTF8 ON', 'PASS  with  spaces ', 'HOST a.example', 'LANG en')
{
    $c->send("$command\r\n");
    is($s->line, "$command\r\n", "command $command");
    same('reply', "250 ok\r\n");
}

$t->done;

sub asked {
    my ($name, $command, $reply) = @_;

    $c->command($command);
    is($s->line, "$command\r\n", "$name command");
    same($name, $reply);
}

sub same {
    my ($name, $bytes) = @_;

    $s->send($bytes);
    is($c->bytes(length $bytes), $bytes, $name);
}
