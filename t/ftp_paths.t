#!/usr/bin/perl

# C10: paths of any bytes, both ways, exactly as they were sent.

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

path('C10 IAC', "\xff\xff");
path('C10 IAC with commands', "\xff\xf4\xff\xf2\xff\xfd\x06");
path('C10 Latin-1', "gr\xfc\xdfe");
path('C10 UTF-8', "gr\xc3\xbc\xc3\x9fe \xf0\x9f\x98\x80");
path('C10 Shift-JIS', "\x83\x5c\x95\x5c\x8e\xa6");
path('C10 CR NUL', "a\r\0b");
path('C10 CR', "a\rb\r");
path('C10 NUL', "a\0b");
path('C10 spaces', '  two  spaces  ');
path('C10 tab', "a\tb\t");
path('C10 like a command', 'PASV');
path('C10 quotes', "\"'`\\\$(x);|&<>*?");
path('C10 all bytes', join '', map { chr } grep { $_ != 10 } 1 .. 255);

$t->done;

sub path {
    my ($name, $path) = @_;

    for my $verb (qw(RETR stor CWD DELE)) {
        my $command = "$verb $path\r\n";

        $c->send($command);
        is($s->line, $command, "$name $verb");
        $s->send("550 $path: no\r\n");
        is($c->line, "550 $path: no\r\n", "$name reply");
    }

    # and split anywhere
    my $command = "RETR $path\r\n";
    $c->send_bytewise($command);
    is($s->line, $command, "$name in bytes");
    $s->send_bytewise("257 \"$path\"\r\n");
    is($c->line, "257 \"$path\"\r\n", "$name reply in bytes");
}
