#!/usr/bin/perl

# Spellings by which a command that the proxy refuses could reach a server
# that reads more than the proxy does.

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

for my $verb ('PORT 10,0,0,9,200,25', 'EPRT |1|10.0.0.9|5282|', 'AUTH TLS',
    'LPRT 4,4,10,0,0,9,2,0,25', 'SPSV')
{
    my ($word) = $verb =~ /^(\w+)/;
    my $rest = substr $verb, length $word;
    my ($head, $tail) = (substr($word, 0, 2), substr($word, 2));

    refused("$word space", " $verb\r\n");
    refused("$word tab", "\t$verb\r\n");
    refused("$word bare LF", "$verb\n");
    refused("$word NUL before", "\0$verb\r\n");
    refused("$word NUL inside", "$head\0$tail$rest\r\n");
    refused("$word CR before", "\r$verb\r\n");
    refused("$word CR inside", "$head\r$tail$rest\r\n");
    refused("$word telnet before", "\xff\xf1$verb\r\n");
    refused("$word telnet inside", "$head\xff\xf1$tail$rest\r\n");
    refused("$word option before", "\xff\xfd\x06$verb\r\n");
    refused("$word vertical tab", "\x0b$verb\r\n");
    refused("$word backspace", "x\x08$verb\r\n");

    (my $tabbed = $rest) =~ s/^ /\t/;
    refused("$word tab between", "$word$tabbed\r\n");
}

# the last line needs no end to reach a server

for my $verb ('PORT 10,0,0,9,200,25', 'AUTH TLS', 'GET / HTTP/1.1', 'SPSV',
    'EPRT |1|10.0.0.9|5282|')
{
    my ($c, $s) = $t->session($server);
    $c->send($verb);
    $c->finish;
    is($s->rest, '', "$verb without end");
}

# P@SW is PASV to some servers

my $listener = $server->passive;
$c->command('P@SW');
is($s->line, "P\@SW\r\n", 'P@SW passed');
$s->send("227 Passive (${\$listener->hostport})\r\n");
my $near = $c->data($c->passive_port($c->line));
my $far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'P@SW data');

$t->done;

# Whatever the proxy says to it, the server hears the next command only.
sub refused {
    my ($name, $bytes) = @_;

    $c->send($bytes);
    like($c->line, qr/\A5\d\d [^\r\n]+\r\n\z/, $name);

    my $got = $t->dialog($c, $s, NOOP => '200 in step');
    is($got, '', "$name not passed");

    # the next one starts afresh
    ($c, $s) = $t->session($server) if $got;
}
