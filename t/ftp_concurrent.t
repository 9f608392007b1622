#!/usr/bin/perl

# 200 sessions at once on two workers, from twenty addresses: all of
# them transfer both ways at the same time, several rounds.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF", connections => 4096);
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(29)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 29)};
        ftp_data zone=ftp;
        proxy_half_close on;
    }
EOF

my @sessions;
my @wrong;

for my $i (0 .. 199) {
    my ($c, $s) = $t->session($server,
        bind => '127.0.1.' . (1 + int($i / 10)));
    push @sessions, { name => "session $i", c => $c, s => $s,
        listener => $server->passive };
}

is(scalar @sessions, 200, 'sessions');

# all steps of one kind are under way at once, so the workers meet in the
# table

for my $round (1 .. 3) {
    $_->{c}->command($round % 2 ? 'PASV' : 'EPSV') for @sessions;
    $_->{s}->line for @sessions;

    for (@sessions) {
        my $listener = $_->{listener};
        $_->{s}->send($round % 2
            ? "227 (${\$listener->hostport})\r\n"
            : "229 (|||${\$listener->port}|)\r\n");
    }

    for (@sessions) {
        my $reply = $_->{c}->line;
        $_->{port} = $_->{c}->passive_port($reply)
            or push @wrong, "$_->{name}: $reply";
    }

    last if @wrong;

    $_->{near} = $_->{c}->data($_->{port}) for @sessions;
    $_->{far} = $_->{listener}->accept for @sessions;

    $_->{c}->command("STOR $_->{name}") for @sessions;
    $_->{s}->line eq "STOR $_->{name}\r\n"
        or push @wrong, "$_->{name} command" for @sessions;
    $_->{s}->send("150 $_->{name}\r\n") for @sessions;
    $_->{c}->line eq "150 $_->{name}\r\n"
        or push @wrong, "$_->{name} begin" for @sessions;

    for (@sessions) {
        $_->{near}->send("up $_->{name} $round");
        $_->{far}->send("down $_->{name} $round");
    }

    for (@sessions) {
        my ($up, $down) = ("up $_->{name} $round", "down $_->{name} $round");
        my $got = $_->{far}->bytes(length $up);
        push @wrong, "$_->{name}: $got" if $got ne $up;
        $got = $_->{near}->bytes(length $down);
        push @wrong, "$_->{name}: $got" if $got ne $down;
    }

    $_->{near}->finish for @sessions;
    $_->{far}->ended eq 'eof' or push @wrong, "$_->{name} end" for @sessions;
    $_->{far}->finish for @sessions;
    $_->{near}->ended eq 'eof' or push @wrong, "$_->{name} ended $_->{near}{end}" for @sessions;
    $_->{s}->send("226 done\r\n") for @sessions;
    $_->{c}->line eq "226 done\r\n"
        or push @wrong, "$_->{name} final" for @sessions;

    is("@wrong[0 .. (@wrong > 5 ? 5 : $#wrong)]", '', "round $round");
}

is("@wrong[0 .. (@wrong > 5 ? 5 : $#wrong)]", '', 'no mistake');

# all go at once

$_->{c}->command('PASV') for @sessions;
$_->{s}->line for @sessions;
$_->{s}->send("227 (${\$_->{listener}->hostport})\r\n") for @sessions;
my %seen;

for (@sessions) {
    my $port = $_->{c}->passive_port($_->{c}->line) // 'none';
    $seen{$_->{c}->local_addr . " $port"}++;
}

is(scalar keys %seen, 200, 'all reserve');
$_->{c}->close for @sessions;
$t->wait_log(qr/ftp released port/, 200);

# and leave room for as many

my ($c, $s) = $t->session($server, bind => '127.0.1.1');
my ($near, $far) = $t->data($c, $s);
$far->finish;
is($near->ended, 'eof', 'room again');

$t->done;
