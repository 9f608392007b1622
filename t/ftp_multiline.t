#!/usr/bin/perl

# R15: a passive reply of several lines is one reply and leaves as one line.

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

vector('last line', PASV => "227-Hello\r\n 227 x\r\n227 Passive (%p)\r\n");
vector('first line', PASV => "227-Passive (%p)\r\n227 End\r\n");
vector('middle line', PASV => "227-Hello\r\n Passive (%p)\r\n227 End\r\n");
vector('last address counts', PASV =>
    "227-Passive (10,0,0,5,195,80)\r\n227 Passive (%p)\r\n");
vector('other code inside', PASV =>
    "227-a\r\n226 b\r\n\r\n227-c\r\n227 Passive (%p)\r\n");
vector('bare LF', PASV => "227-Hello\n227 Passive (%p)\n");
vector('extended', EPSV => "229-Hello\r\n229 Extended (|||%e|)\r\n");
vector('extended first', EPSV => "229-Extended (|||%e|)\r\n229 End\r\n");

# held until its end, whatever the segments

vector('in segments', PASV => "227-Hello\r\n 227 x\r\n227 Passive (%p)\r\n", 1);

# no address at all

$c->command('PASV');
$s->line;
$s->send("227-Hello\r\n 227 x\r\n227 End\r\n");
like($c->line, qr/\A425 [^\r\n]*\r\n\z/, 'no address');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'no address in step');

$t->done;

sub vector {
    my ($name, $command, $reply, $bytewise) = @_;

    my $listener = $server->passive;
    my ($numbers, $target) = ($listener->hostport, $listener->port);

    $reply =~ s/%p/$numbers/;
    $reply =~ s/%e/$target/;

    $c->command($command);
    is($s->line, "$command\r\n", "$name command");
    $bytewise ? $s->send_bytewise($reply) : $s->send($reply);

    my $got = $c->line;
    my $port = $c->passive_port($got);

    like($got, qr/\A227\ [^\r\n]*\(127,0,0,1,\d+,\d+\)[^\r\n]*\r\n\z
        |\A229\ [^\r\n]*\(\|\|\|\d+\|\)[^\r\n]*\r\n\z/x, "$name one line");

    # nothing of it is left behind
    is($t->dialog($c, $s, NOOP => '200 in step'), '', "$name in step");

    my $near = $c->data($port);
    my $far = $listener->accept;
    $far->send($name);
    $far->finish;
    is($near->rest, $name, "$name data");
}
