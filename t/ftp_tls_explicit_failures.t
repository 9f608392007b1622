#!/usr/bin/perl

# A server that will not, or must not, be asked for TLS: the next one of the
# upstream, and before any greeting; the client's end where there is none.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpDns;
use Test::Nginx::FtpLegs;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my ($bad, $good) = map { $t->server } 1 .. 2;
my $nobody = $t->server;

# one port at two addresses, for a name that has both
my @twins;
$t->wait_for('a port that is free at both', sub {
    my $twin = $t->server(addr => '127.0.0.2');
    my $other = eval { $t->server(addr => '127.0.0.3', port => $twin->port) };
    @twins = ($twin, $other) if $other;
    return $other;
}) or die "no port for twins\n";
my $dns = Test::Nginx::FtpDns->new;
my $dead = $nobody->at;
$nobody->close;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my $path = "$dir/ftp.sock";
my $bad_unix = $t->server(path => $path);
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] }
    'server', 'client', 'stranger';

my $range = "min_port=${\$t->port(20)} max_port=${\$t->port(39)}";
my $n = 0;

sub ctrl {
    my ($to, $more, $listen) = @_;

    my $port = $t->port($n);
    my $zone = $n++ ? 'ftp' : 'ftp:1m';

    $listen = $listen ? " $listen" : '';

    return "server { listen 127.0.0.1:$port$listen; ftp_ctrl zone=$zone "
        . "$range; proxy_pass $to; $more }\n";
}

my $servers = join '',
    ctrl('both', 'ftp_auth_tls on;'),                                 # 0
    ctrl('both', '', 'ssl'),                                          # 1
    ctrl('alone', ''),                                                # 2
    ctrl('both', 'proxy_next_upstream off;'),                         # 3
    ctrl('both', 'proxy_connect_timeout 1s;'),                        # 4
    ctrl('alone', 'proxy_connect_timeout 1s;'),                       # 5
    ctrl('dead', ''),                                                 # 6
    ctrl('counted', ''),                                              # 7
    ctrl('unix', ''),                                                 # 8
    ctrl($dead, ''),                                                  # 9
    ctrl('many', 'proxy_next_upstream_tries 3;'),                     # 10
    ctrl('both', 'proxy_protocol on;'),                               # 11
    ctrl('$named', "resolver 127.0.0.1:${\$dns->port} ipv6=off;"),    # 12
    ctrl('$unix', '');                                                # 13

my $many = join ' ', map { "server ${\$bad->at} max_fails=0;" } 1 .. 5;

$t->run(<<"EOF");
    $certificates
    proxy_ssl on;
    ftp_proxy_auth_tls on;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate $dir/ca.crt;
    proxy_ssl_name server;

    map \$server_port \$named { default ftp.example:${\$twins[0]->port}; }
    map \$server_port \$unix { default unix:$path; }

    upstream both { server ${\$bad->at} max_fails=0; server ${\$good->at} backup; }
    upstream alone { server ${\$bad->at} max_fails=0; }
    upstream dead { server $dead max_fails=0; server ${\$good->at} backup; }
    upstream unix { server unix:$path max_fails=0; server ${\$good->at} backup; }
    upstream many { $many }
    upstream counted {
        zone counted 64k;
        server ${\$bad->at} max_fails=2 fail_timeout=1h weight=100;
        server ${\$good->at};
    }

$servers
    server {
        listen 127.0.0.1:${\$t->range(20, 39)};
        ftp_data zone=ftp;
    }
EOF

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $good,
    serve  => { cert => $cert{server}, explicit => 1 },
    ports  => { plain => 0, explicit => 0, implicit => 1 },
);

# ---- what a bad server does

# Says that in the greeting's place, or in the place of its answer to AUTH.
sub greets {
    my (@words) = @_;

    return sub { $_[0]->send(@words) };
}

sub answers {
    my (@words) = @_;

    return sub {
        my ($s) = @_;

        $s->send("220 ready\r\n");
        is($s->line, "AUTH TLS\r\n", 'AUTH of the proxy');
        $s->send(@words);
    };
}

# Consents and then does that, when the hello is there.
sub shakes {
    my ($how) = @_;

    return sub {
        my ($s) = @_;

        $tls->agree($s);
        $s->_wait('read');
        $how->($s);
    };
}

sub certified {
    my ($who) = @_;

    return shakes(sub { $tls->serve($_[0], cert => $cert{$who})->handshake });
}

# Sends that again and again until nobody listens; the kernels on the way take
# some megabytes.
sub floods {
    my ($begin, $again) = @_;

    return sub {
        my ($s) = @_;

        $begin->($s);

        my $piece = $again x 100;
        my $sent = 0;

        until ($s->{end} || $sent > 2 ** 26) {
            $s->_wait('write');
            $sent += $s->write_some($piece) // last;
            $s->fill(0);
        }

        cmp_ok($sent, '<', 2 ** 26, 'a flood is not read for ever');
    };
}

my $nothing = sub { };
my $end = qr/server closed the connection before TLS/;
my $ahead = qr/server sent more than a reply before TLS/;
my $long = qr/server sent too long reply before TLS/;
my $handshake = qr/SSL_do_handshake\(\) failed|peer closed connection in SSL handshake/;

my @cases = (
    # the greeting

    ['421 greeting', greets("421 too many\r\n"), qr/session with 421/],
    ['530 greeting', greets("530 go away\r\n"), qr/session with 530/],
    ['331 greeting', greets("331 password\r\n"), qr/session with 331/],
    ['multi-line 421', greets("421-a\r\n220 b\r\n421 c\r\n"), qr/session with 421/],
    ['120 and 421', greets("120 wait\r\n421 no\r\n"), qr/session with 421/],
    ['bytewise 421', greets(split //, "421 no\r\n"), qr/session with 421/],
    ['no reply', greets("SSH-2.0-x\r\n"), qr/server sent no FTP reply before TLS/],
    ['closes', sub { $_[0]->close }, $end],
    ['closes in mid-line', sub { $_[0]->send('220 rea'); $_[0]->close }, $end],
    ['ends', sub { $_[0]->finish }, $end],
    ['resets', sub { $_[0]->reset }, qr/Connection reset|$end/],
    ['talks ahead', greets("220 a\r\n234 b\r\n"), $ahead],
    ['greets twice', greets("220 a\r\n220 b\r\n"), $ahead],
    ['endless line', floods($nothing, 'x' x 1000), qr/$long|no FTP reply/],
    ['endless 220', floods(greets('220 '), 'x' x 1000), $long],
    ['endless multi-line', floods($nothing, "220-more and more\r\n"), $long],
    ['endless 120', floods($nothing, "120 wait\r\n" x 10), $long],

    # the answer to AUTH

    (map { ["$_ to AUTH", answers("$_ no\r\n"), qr/refused "AUTH TLS" with $_/] }
        431, 500, 502, 504, 534, 421, 530, 200, 230, 334),
    ['multi-line 502', answers("502-a\r\n234 b\r\n502 c\r\n"), qr/with 502/],
    ['bytewise 502', answers(split //, "502 no\r\n"), qr/with 502/],
    ['no reply to AUTH', answers("hello\r\n"), qr/server sent no FTP reply/],
    ['closes behind AUTH', sub { answers('234 o')->($_[0]); $_[0]->close }, $end],
    ['endless 234', floods(answers('234 '), 'x' x 1000), $long],
    ['endless multi-line 234', floods(answers(''), "234-more and more\r\n"), $long],

    # C14

    ['C14', answers("234 ok\r\n220 fake\r\n"), $ahead],
    ['C14, half a line', answers("234 ok\r\n2"), $ahead],
    ['C14, empty line', answers("234 ok\r\n\r\n"), $ahead],
    ['C14, multi-line', answers("234-a\r\n234 b\r\n230 in\r\n"), $ahead],
    ['C14, later', shakes(sub { $_[0]->send("220 fake\r\n") }), $handshake],
    ['C14, hello of the server', answers("234 ok\r\n\x16\x03\x03"), $ahead],

    # TLS

    ['no TLS', shakes(sub { $_[0]->send("\x15\x03\x01\x00\x02\x02\x28") }),
        $handshake],
    ['closes in TLS', shakes(sub { $_[0]->close }), $handshake],
    ['resets in TLS', shakes(sub { $_[0]->reset }), $handshake],
    ['stranger', certified('stranger'), qr/certificate verify error/],
    ['another name', certified('client'), qr/certificate does not match/],
);

# Plays a case on one connection to the bad server, which then ends.
sub play {
    my ($case, $name, $s) = @_;

    local $Test::Nginx::FtpConn::QUIET = 1;

    $case->[1]->($s);
    $s->rest if $s->socket;
    ok(!$s->socket || $s->{end}, "$name is left");

    return;
}

# The session goes on with the good server; commands that came early are there.
sub goes_on {
    my ($c, $name, $early) = @_;

    my $s = $tls->accept($good, cert => $cert{server}, explicit => 1,
        greeting => "220 good\r\n");

    is($c->line, "220 good\r\n", "$name greeting");

    if ($early) {
        is($s->line, "SYST\r\n", "$name early command");
        $s->send("215 UNIX\r\n");
        is($c->line, "215 UNIX\r\n", "$name early reply");
    }

    return $s;
}

for my $case (@cases) {
    my ($what, undef, $error) = @$case;

    # the next server

    for my $kind ('plain', 'explicit', 'implicit') {
        my $name = "$what $kind";
        my ($c, $s);

        my $line = $t->new_log(qr/\[error\].*(?:$error)/, sub {
            $c = $legs->connect($kind);
            $c->command($kind eq 'explicit' ? 'AUTH TLS' : 'SYST');
            play($case, $name, $bad->accept);
            $s = goes_on($c, $name, $kind ne 'explicit');
        });

        my $at = $bad->at;
        like($line, qr/upstream: "$at"/, "$name says who");

        if ($kind eq 'explicit') {
            like($c->line, qr/^234 /, "$name 234");
            ok($tls->secure($c), "$name TLS");
        }

        is($t->dialog($c, $s, NOOP => '200 okay'), '', "$name in step");
    }

    # none is left, or none is tried

    for my $port (2, 3) {
        my $name = $what . ($port == 2 ? ' alone' : ' off');
        my $c;

        $t->new_log(qr/\[error\].*(?:$error)/, sub {
            $c = $legs->connect('plain', port => $port);
            play($case, $name, $bad->accept);
        });

        is($c->rest, '', "$name no greeting");
        ok($c->{end}, "$name end");
        ok(!$good->touched && !$bad->touched, "$name no other try");
    }
}

# data goes to the server that control is with

{
    my $c = $legs->connect('plain');

    play([0, greets("421 no\r\n")], '421', $bad->accept);
    my $s = goes_on($c, 'data');
    $legs->login($c, $s, 'data', '200 private');
    $legs->transfers($c, $s, 'data', 0, 1);
}

# nobody listens

{
    my $c = $legs->connect('plain', port => 6);
    $c->command('SYST');
    my $s = goes_on($c, 'dead', 1);
    ok($t->wait_log(qr/\[error\].*connect\(\) failed.*$dead/), 'dead logged');

    $c = $legs->connect('plain', port => 9);
    is($c->rest, '', 'dead alone');
    ok($c->{end}, 'dead alone, end');
}

# addresses of a name: the other one, or none

# The server that is tried first, and the other; each worker asks once.
sub twins {
    $t->wait_for('one of both', sub {
        $dns->answer('127.0.0.2', '127.0.0.3') if $dns->asked;
        return grep { $_->touched } @twins;
    });

    return sort { $b->touched <=> $a->touched } @twins;
}

for my $case (grep { $_->[0] =~ /^(?:421 greeting|502 to AUTH|C14|stranger)$/ } @cases) {
    my $name = "$case->[0] of a name";
    my $c = $legs->connect('plain', port => 12);

    $c->command('SYST');
    my ($first, $second) = twins();

    play($case, "$name, first", $first->accept);
    play($case, "$name, second", $second->accept);
    is($c->rest, '', "$name, no greeting");
    ok($c->{end}, "$name, end");
}

{
    my $c = $legs->connect('plain', port => 12);

    $c->command('SYST');
    my ($first, $second) = twins();

    play($cases[0], 'a name', $first->accept);
    my $s = $tls->accept($second, cert => $cert{server}, explicit => 1);
    is($c->line, "220 ready\r\n", 'the other address');
    is($s->line, "SYST\r\n", 'the early command');
}

# a variable with a unix socket: not done, and not without TLS either

{
    my $c = $legs->connect('plain', port => 13);

    is($c->rest, '', 'unix socket in a variable');
    ok($c->{end}, 'unix socket in a variable, end');
    ok($t->wait_log(qr/\[error\].*"ftp_proxy_auth_tls"\ does\ not\ support\ unix
        \ sockets\ in\ variables/x), 'unix socket in a variable, logged');
    my $s = $bad_unix->accept;
    unlike($s->rest, qr/AUTH|SYST/, 'no word in clear');
}

# a unix socket, which connects at once

for my $case (grep { $_->[0] =~ /^(?:421 greeting|closes|C14|stranger)$/ } @cases) {
    my ($what, undef, $error) = @$case;
    my $c = $legs->connect('plain', port => 8);

    play($case, "$what unix", $bad_unix->accept);
    goes_on($c, "$what unix");
}

{
    my $c = $legs->connect('plain', port => 8);
    my $s = $tls->accept($bad_unix, cert => $cert{server}, explicit => 1);
    is($c->line, "220 ready\r\n", 'good on a unix socket');

    # nobody listens
    $bad_unix->close;
    $c = $legs->connect('plain', port => 8);
    goes_on($c, 'dead on a unix socket');
}

# each server has a header of its own

{
    my $c = $legs->connect('plain', port => 11);
    my $header = "PROXY TCP4 127.0.0.1 127.0.0.1 ${\$c->local_port} "
        . "${\$t->port(11)}\r\n";
    my $s = $bad->accept;

    is($s->line, $header, 'header');
    play([0, greets("421 no\r\n")], 'header', $s);
    $s = $good->accept;
    is($s->line, $header, 'header of the next');
    $tls->agree($s);
    ok($tls->serve($s, cert => $cert{server})->handshake, 'TLS of the next');
    is($c->line, "220 ready\r\n", 'greeting of the next');
    is($t->dialog($c, $s, SYST => '215 UNIX'), '', 'no header in TLS');
}

# several in a row, each in another way, as many as are allowed

{
    my $c = $legs->connect('plain', port => 10);
    my @some = grep { $_->[0] =~ /^(?:421 greeting|502 to AUTH|stranger)$/ } @cases;

    $c->command('SYST');
    play($_, "$_->[0] in a row", $bad->accept) for @some;
    is($c->rest, '', 'three in a row');
    ok($c->{end}, 'three in a row, end');
    ok(!$bad->touched, 'no fourth');
}

# a failed peer is one for the balancer

for my $i (1, 2) {
    my $c = $legs->connect('plain', port => 7);

    play([0, $i == 1 ? greets("421 no\r\n") : answers("502 no\r\n")],
        "fail $i", $bad->accept);
    goes_on($c, "fail $i");
}

for my $i (1 .. 3) {
    my $c = $legs->connect('plain', port => 7);

    goes_on($c, "counted $i");
    ok(!$bad->touched, "counted $i, not tried");
}

# ---- nothing in time, all at once

my @silent = (
    ['no greeting', $nothing, 'greeting'],
    ['half a greeting', greets('220 rea'), 'greeting'],
    ['half a multi-line greeting', greets("220-a\r\n220-b\r\n"), 'greeting'],
    ['120 alone', greets("120 wait\r\n"), 'greeting'],
    ['no answer to AUTH', answers(''), 'AUTH TLS'],
    ['half an answer to AUTH', answers("234-a\r\n234"), 'AUTH TLS'],
    # of this the stock proxy says nothing
    ['no handshake', shakes($nothing), ''],
);

# as many lines as cases, a second time where there is no next server
my %timed_out;
my @waiting;

for my $silent (@silent) {
    my ($what, $play, $action) = @$silent;

    for my $port (4, 5) {
        my $c = $legs->connect('plain', port => $port);
        my $s = $bad->accept;

        $play->($s);
        push @waiting, [$what . ($port == 5 ? ' alone' : ''), $port, $c, $s];
        $timed_out{$action}++ if $action;
    }
}

# they come to the good server in any order
my @next = map {
    $tls->accept($good, cert => $cert{server}, explicit => 1)
} grep { $_->[1] == 4 } @waiting;

for my $waiting (@waiting) {
    my ($name, $port, $c, $s) = @$waiting;

    if ($port == 4) {
        is($c->line, "220 ready\r\n", "$name, greeting of the next");

    } else {
        is($c->rest, '', "$name, no greeting");
        ok($c->{end}, "$name, end");
    }

    $s->rest;
    ok($s->{end}, "$name, server's end");
}

for my $action (sort keys %timed_out) {
    ok($t->wait_log(qr/\[error\].*upstream timed out.*\Q$action\E/,
        $timed_out{$action}), "timeouts while $action");
}

$t->done;
