#!/usr/bin/perl

# ftp_data_peer any where servers connect, too: a port is one session's, and one
# connection's, whoever comes; nobody but the client itself is ever dialled.

use strict;
use warnings;

use FindBin;
use IO::Socket::UNIX;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpModes;

my $t = Test::Nginx::Ftp->new;

plan(skip_all => 'no IPv6')
    unless eval { Test::Nginx::FtpServer->new(addr => '::1') };

my $modes = 'Test::Nginx::FtpModes';
my $server = $t->server(addr => '127.0.0.91');
my $path = $t->dir . '/control.sock';

# Three control servers of a zone: as the client wants, passive and active
# toward the server.
sub servers {
    my ($first, $listen, $zone, $range, $more) = @_;

    my $conf = '';

    for my $mode ('client', 'passive', 'active') {
        $conf .= <<"END";
    server {
        listen $listen:${\$t->port($first++)} $more;
        ftp_ctrl zone=$zone $range;
        ftp_client_mode any;
        ftp_server_mode $mode;
        proxy_pass ${\$server->at};
    }
END
        $zone =~ s/:.*//;
        $range = '';
    }

    return $conf;
}

sub range { sprintf 'min_port=%d max_port=%d', map { $t->port($_) } @_ }

$t->run(<<"EOF");
    ftp_data_peer any;

${\servers(0, '127.0.0.1', 'any:1m', range(10, 13), '')}
${\servers(3, '[::]', 'mapped:1m', range(20, 23), 'ipv6only=off')}

    server {
        listen unix:$path;
        ftp_ctrl zone=any proxy_ip=127.0.0.1;
        ftp_client_mode any;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(6)};
        ftp_ctrl zone=brief:1m ${\range(40, 40)};
        ftp_client_mode any;
        ftp_data_timeout 300ms;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 13)};
        ftp_data zone=any;
    }

    server {
        listen [::]:${\$t->range(20, 23)} ipv6only=off;
        ftp_data zone=mapped;
    }

    server {
        listen 127.0.0.1:${\$t->port(40)};
        ftp_data zone=brief;
    }
EOF

# command of the client, port of the control server (plus 3 behind IPv6): the
# proxy dials the client, both, nobody
my %cases = (
    active  => [PORT => 0],
    neither => [PORT => 1],
    both    => [PASV => 2],
    passive => [PASV => 0],
);

sub session {
    my ($case, %arg) = @_;

    my $port = $t->port($cases{$case}[1] + ($arg{first} // 0));

    return $t->session($server, port => $port);
}

sub agree {
    my ($case, %arg) = @_;

    my ($c, $s) = session($case, %arg);

    return $modes->agree($t, $c, $s, $arg{command} // $cases{$case}[0]);
}

sub leave {
    my (@all) = @_;

    for my $d (@all) {
        $d->leave;
        $d->{$_}->close for 'c', 's';
    }

    return;
}

# all of it, also where IPv4 comes as IPv6

for my $first (0, 3) {
    for my $case (sort keys %cases) {
        my ($c, $s) = session($case, first => $first);
        my @commands = $cases{$case}[0] eq 'PORT'
            ? ('PORT', 'EPRT') : ('PASV', 'EPSV');

        is($modes->works($t, $c, $s, $_), '', "$case $_ at $first") for @commands;
        $_->close for $c, $s;
    }
}

# from another address, on either side

for my $first (0, 3) {
    for my $case ('active', 'both') {
        my $d = agree($case, first => $first);

        $d->{c}->command('RETR f');
        $d->dial_client(bind => '127.0.0.2') if $d->{port};
        $d->dial_server(bind => '127.0.0.92');
        is($d->complete, '', "$case at $first, other addresses");

        # once
        is($t->dial($d->{s}, @{$d->{told}})->ended, 'reset',
            "$case at $first, second server");
        is($d->{c}->data($d->{port})->ended, 'reset',
            "$case at $first, second client") if $d->{port};
        leave($d);
    }
}

# a stranger that is first has what is to be had, and the right one is refused:
# that is what "any" says; but it reaches nothing but this one client

{
    my $d = agree('active');
    my $other = agree('active');

    $d->{c}->command('STOR f');
    $d->{s}->line;
    my $stranger = $t->dial($d->{s}, @{$d->{told}}, bind => '127.0.0.3');
    my $near = $d->{client}->accept;
    is($d->dial_server->ended, 'reset', 'active, behind a stranger');
    $near->send('upload');
    $near->finish;
    is($stranger->rest, 'upload', 'active, stranger');
    ok(!$other->{client}->touched, 'active, another client');
    is($other->begin->complete, '', 'active, another session');
    leave($d, $other);
}

{
    my ($d, $other) = map { agree('both') } 1, 2;

    $t->new_log(qr/ftp matched port $d->{told}[1], /, sub {
        $d->{stranger} = $t->dial($d->{s}, @{$d->{told}}, bind => '127.0.0.3');
    });
    is($d->dial_server->ended, 'reset', 'both, behind a stranger');
    $d->dial_client;
    $d->{stranger}->send('strange');
    is($d->{near}->bytes(7), 'strange', 'both, stranger');
    is($other->begin->complete, '', 'both, another session');
    leave($d, $other);
}

# the port's number of a connection that the proxy begins lets nobody in

{
    my $d = agree('neither');
    my ($port) = ($t->lines(qr/ftp reserved port/))[-1] =~ /port (\d+) /;

    for my $from ('127.0.0.1', '127.0.0.2', '127.0.0.91') {
        is($d->{c}->data($port, bind => $from)->ended, 'reset',
            "neither, from $from");
    }

    ok(!$d->{$_}->touched, "neither, $_ untouched") for 'client', 'server';
    is($d->begin->complete, '', 'neither, works');
    leave($d);
}

# a port is one session's, in whatever mode; a full range is a clear no, and
# what is free again can be had

for my $case (sort keys %cases) {
    my $each = $case eq 'both' ? 2 : 1;
    my @all = map { agree($case) } 1 .. 4 / $each;
    my %ports = map { $_ => 1 } map { /ftp reserved port (\d+) / }
        ($t->lines(qr/ftp reserved port/))[-4 .. -1];

    is(keys %ports, 4, "$case, four ports");

    for my $more (sort keys %cases) {
        my ($c, $s) = session($more);
        my $command = $cases{$more}[0];
        my $client = $t->server;
        my $line = $t->new_log(qr/\[error\].*no free port for .* in zone "any"/,
            sub {
                $c->command($command eq 'PORT'
                    ? $t->active_command($client) : $command);

                if ($more eq 'neither' || $more eq 'passive') {
                    $s->line;
                    $s->send($more eq 'neither' ? "229 (|||5000|)\r\n"
                        : "227 (127,0,0,91,19,136)\r\n");
                }
            });

        ok($line, "$case, no port for $more");
        like($c->line, qr/\A425 /, "$case, 425 for $more");
        is($t->dialog($c, $s, NOOP => '200 okay'), '', "$case, $more goes on");
        $_->close for $c, $s;
    }

    for my $d (@all) {
        is($d->begin->complete, '', "$case, works");
    }

    leave(@all);
    is($modes->works($t, session($case), $cases{$case}[0]), '', "$case, again");
}

# one port for each of the two, and one left over: nothing is kept of a half

{
    my @held = map { agree('passive') } 1 .. 3;
    my ($c, $s) = session('both');

    for (1 .. 3) {
        $c->command('EPSV');
        my @told = $t->told($s->line);
        $s->send("200 okay\r\n");
        like($c->line, qr/\A425 /, 'half of two');
        is($t->dial($s, @told)->ended, 'reset', 'half of two, server');
    }

    is($modes->works($t, session('passive'), 'PASV'), '', 'half of two, free');
    $_->close for $c, $s;
    leave(@held);
}

# expiry: one port, from one session to the next

for my $command ('PORT', 'PASV') {
    my ($c, $s) = $t->session($server, port => $t->port(6));
    my $d = $modes->agree($t, $c, $s, $command);
    my ($c2, $s2) = $t->session($server, port => $t->port(6));
    my $listener = $t->server(addr => '127.0.0.91');

    # any reservation looks at others
    ok($t->wait_for('expiry', sub {
        $t->passive($c2, $s2, $listener) =~ /\A227 /;
    }), "expired $command");

    my $next = $modes->agree($t, $c2, $s2, $command);

    is($next->{told} ? $next->{told}[1] : $next->{port}, $t->port(40),
        "expired $command, the port");
    is($next->begin->complete, '', "expired $command, the next one");

    # too late, and nobody else's any more
    my $conn = $d->{told} ? $d->dial_server : $d->dial_client;
    is($conn->ended, 'reset', "expired $command, the late one");
    ok(!grep({ $d->{$_} && $d->{$_}->touched } 'client', 'server'),
        "expired $command, untouched");
    leave($d, $next);
    ok(!$listener->touched, "expired $command, given up untouched");
}

# a client without an address: anybody may connect for it, but nobody is dialled

{
    my $c = Test::Nginx::FtpClient->new(IO::Socket::UNIX->new(Peer => $path));
    my $s = $server->accept;
    $s->send("220 ready\r\n");
    is($c->line, "220 ready\r\n", 'unix');

    my $listener = $t->server(addr => '127.0.0.91');
    my $reply = $t->passive($c, $s, $listener, 'EPSV');
    my $near = Test::Nginx::FtpClient->connect(port => $c->passive_port($reply),
        bind => '127.0.0.7');
    my $far = $listener->accept;
    $far->send('x');
    $far->finish;
    is($near->rest, 'x', 'unix, anybody');

    my $client = $t->server;

    for my $command ('PORT', 'EPRT') {
        $c->command($t->active_command($client, $command));
        like($c->line, qr/\A504 /, "unix, $command");
    }

    is($t->dialog($c, $s, NOOP => '200 okay'), '', 'unix, goes on');
    ok(!$client->touched, 'unix, nobody dialled');
}

$t->done;
