#!/usr/bin/perl

# A dialogue split at every byte, in both directions: the result is the same.

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

my $commands = join '', map { "$_\r\n" } 'USER x', 'PASS y', 'PASV', 'AUTH TLS',
    'EPSV 1', 'PORT 1,2,3,4,5,6', 'PASV', 'RETR x', 'NOOP';

my $passed = join '', map { "$_\r\n" } 'USER x', 'PASS y', 'PASV', 'EPSV 1',
    'PASV', 'RETR x', 'NOOP';

my $replies = join '', map { "$_\r\n" } '331 who', '230-227 (1,2,3,4,5,6)',
    '227 Entering (1,2,3,4,5,6)', '230 in', '227 Passive (10,0,0,5,195,80).',
    '229 Extended (|||6446|)', '227-a', ' 227 b', '226 c',
    '227 =10,0,0,5,195,80', '150 here', '226-', '', '226', '200 ok';

my $shown = qr/\A331\ who\r\n
    230-227\ \(1,2,3,4,5,6\)\r\n
    227\ Entering\ \(1,2,3,4,5,6\)\r\n
    230\ in\r\n
    227\ Passive\ \(127,0,0,1,\d+,\d+\)\.\r\n
    502\ [^\r\n]+\r\n
    229\ Extended\ \(\|\|\|\d+\|\)\r\n
    504\ [^\r\n]+\r\n
    227\ =\(127,0,0,1,\d+,\d+\)\r\n
    150\ here\r\n
    226-\r\n\r\n226\r\n
    200\ ok\r\n\z/x;

my ($c, $s) = $t->session($server);

# what the client says

my @wrong;

for my $at (1 .. length($commands) - 1) {
    $c->send(substr($commands, 0, $at), substr($commands, $at));

    my $got = $s->bytes(length $passed);
    push @wrong, "$at: server got $got" if $got ne $passed;

    $s->send($replies);
    $got = until_end();
    push @wrong, "$at: client got $got" if $got !~ $shown;

    last if @wrong > 3;
}

is("@wrong", '', 'commands');

# what the server says

@wrong = ();

for my $at (1 .. length($replies) - 1) {
    $c->send($commands);

    my $got = $s->bytes(length $passed);
    push @wrong, "$at: server got $got" if $got ne $passed;

    $s->send(substr($replies, 0, $at), substr($replies, $at));
    $got = until_end();
    push @wrong, "$at: client got $got" if $got !~ $shown;

    last if @wrong > 3;
}

is("@wrong", '', 'replies');

# every byte alone

$c->send_bytewise($commands);
is($s->bytes(length $passed), $passed, 'commands bytewise');

$s->send_bytewise($replies);
like(until_end(), $shown, 'replies bytewise');

# and the session still works

my ($near, $far) = $t->data($c, $s);
$far->send('x');
$far->finish;
is($near->rest, 'x', 'transfer after');

$t->done;

sub until_end {
    my $got = '';

    while ($got !~ /^200 ok\r\n\z/m) {
        my $line = $c->line;
        last if $line eq '';

        $got .= $line;
    }

    return $got;
}
