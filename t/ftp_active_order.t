#!/usr/bin/perl

# A client in active mode hears of the end of its transfer when its data
# connection is there, as of any server that dials first: also where the proxy
# dials it late, from another worker or because that is busy.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new(seconds => 300);
my $server = $t->server(addr => '127.0.0.91');

my $conf = <<"EOF";
    ftp_client_mode any;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_server_mode passive;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=impatient:1m min_port=${\$t->port(30)} max_port=${\$t->port(40)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(3)};
        ftp_ctrl zone=impatient;
        ftp_server_mode passive;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 40)};
        ftp_data zone=impatient;
        proxy_connect_timeout 500ms;
    }
EOF

$t->run($conf, main => 'worker_shutdown_timeout 1s;');

my $done = "226 done\r\n";
my %way = (active => 0, passive => 1);
my %impatient = (active => 2, passive => 3);

# A client that has asked for a file and does not accept: the kernel drops what
# the proxy sends. The rest says what there is.
#   at => port of the control server, mode => of the server, dial => code that
#   dials as the server, or none
sub begin {
    my (%arg) = @_;

    my ($c, $s) = $arg{session} ? @{$arg{session}}
        : $t->session($server, port => $t->port($arg{at}));
    my %self = (c => $c, s => $s, client => $t->server(backlog => 1));
    my $port = $self{client}->port;

    $self{fill} = [map { Test::Nginx::FtpClient->connect(port => $port) } 1, 2];

    $c->command($t->active_command($self{client}, $arg{command}));

    if ($arg{mode} eq 'passive') {
        $self{server} = $t->server(addr => '127.0.0.91');
        $s->line eq "EPSV\r\n" or die "no EPSV\n";
        $s->send("229 (|||${\$self{server}->port}|)\r\n");

    } else {
        $self{told} = [$t->told($s->line)];
        $s->send("200 okay\r\n");
    }

    $c->line =~ /\A200 / or die "no 200\n";
    $c->command('RETR f');
    $s->line eq "RETR f\r\n" or die "no RETR\n";

    # who dials the client has begun to
    my $matched = qr/ftp matched port \d+, target 127\.0\.0\.1:$port\b/;

    if ($self{told}) {
        my $dial = $arg{dial} // sub { $t->dial($s, @_, before => 'file') };

        if ($self{far} = $dial->(@{$self{told}})) {
            $self{far}->finish;
            $t->wait_log($matched);
        }
    }

    return \%self;
}

# What the client has been told, that and maybe more: the proxy has read all that
# the server has said, and a command of the client's that came behind that.
sub told {
    my ($self, $first) = @_;

    # of a begin the client hears a moment later where nobody comes
    my $told = length $first ? $self->{c}->bytes(length $first) : '';

    $self->{s}->taken;
    $self->{c}->command('NOOP');

    my $line = $self->{s}->line;
    return "server got '$line'" if $line ne "NOOP\r\n";

    return $told . $self->{c}->waiting;
}

# The client accepts.
sub let_in {
    my ($self) = @_;

    $_->close for map { $self->{client}->accept } 1, 2;

    return $self->{near} = $self->{client}->accept;
}

# The file is there, and what was held comes, and the answer to NOOP.
sub complete {
    my ($self, $name, $held) = @_;

    my $near = let_in($self);

    is($self->{c}->reply, $held, "$name told then");

    $self->{far} //= $self->{server}->accept;

    if ($self->{server}) {
        $self->{far}->send('file');
        $self->{far}->finish;
    }

    is($near->rest, 'file', "$name bytes");
    is($near->ended, 'eof', "$name end");
    $near->close;
    is($self->{far}->ended, 'eof', "$name server's end");

    $self->{s}->send("200 fine\r\n");
    is($self->{c}->line, "200 fine\r\n", "$name next reply");

    return;
}

for my $mode ('active', 'passive') {
    my $session = [$t->session($server, port => $t->port($way{$mode}))];

    for my $case (
        ['150 and 226', ["150 now\r\n", $done], "150 now\r\n", $done],
        ['in one segment', ["150 now\r\n$done"], "150 now\r\n", $done],
        ['without 150', [$done], '', $done],
        ['several lines', ["150-now\r\n150 x\r\n226-a\r\n22", "5 b\r\n226 c\r\n"],
            "150-now\r\n150 x\r\n", "226-a\r\n225 b\r\n226 c\r\n"],
        ['byte by byte', [split //, "150 now\r\n$done"], "150 now\r\n", $done],
        ['short', ["150 now\r\n226\n"], "150 now\r\n", "226\n"],
        ['no', ["150 now\r\n426 cut\r\n"], "150 now\r\n", "426 cut\r\n"],
    ) {
        my ($what, $says, $first, $held) = @$case;
        my $command = $what eq 'several lines' ? 'EPRT' : 'PORT';
        my $name = "server $mode, $what";
        my $self = begin(session => $session, mode => $mode,
            command => $command);

        $self->{s}->send(@$says);
        is(told($self, $first), $first, $name);
        complete($self, $name, $held);
    }
}

# a server that says 150 and dials then: the client hears of it when its data
# connection is there; again, where the machine is too slow for that

for my $mode ('active', 'passive') {
    my ($c, $s) = $t->session($server, port => $t->port($way{$mode}));
    my ($quick, $touched);

    for (1 .. 20) {
        my $client = $t->server;
        my ($far, @told, $passive);

        $c->command($t->active_command($client));

        if ($mode eq 'passive') {
            $passive = $t->server(addr => '127.0.0.91');
            $s->line;
            $s->send("229 (|||${\$passive->port}|)\r\n");

        } else {
            @told = $t->told($s->line);
            $s->send("200 okay\r\n");
        }

        $c->line;
        $c->command('RETR f');
        $s->line;

        my $began = time;

        $s->send("150 now\r\n");
        $far = $passive ? $passive->accept : $t->dial($s, @told);
        is($c->line, "150 now\r\n", "server $mode says 150 first");
        $touched = $client->touched;
        $quick = time - $began < 0.2;
        $far->finish;
        is($client->accept->rest, '', "server $mode says 150 first, file");
        $s->send($done);
        is($c->line, $done, "server $mode says 150 first, end");

        last if $quick;
    }

    ok($quick && $touched, "server $mode says 150 first, data connection");
}

# the server's connection is with the kernel, and no worker has looked yet

{
    my $self = begin(at => 0, mode => 'active', dial => sub { });
    $self->{s}->send("150 now\r\n$done");
    is(told($self, "150 now\r\n"), "150 now\r\n", 'not accepted yet');
    $self->{far} = $t->dial($self->{s}, @{$self->{told}}, before => 'file');
    $self->{far}->finish;
    complete($self, 'not accepted yet', $done);
}

# a worker that sleeps has both

{
    my ($one, $other) = $t->workers;
    my $session = $t->only_worker($one, sub { [$t->session($server)] });
    my $self = begin(session => $session, mode => 'active',
        dial => sub { my @told = @_; $t->only_worker($other, sub {
            my $far = $t->dial($session->[1], @told, before => 'file');
            $t->worker_of($far);
            return $far;
        }) });

    $t->paused($other, sub {
        $self->{s}->send("150 now\r\n$done");
        is(told($self, "150 now\r\n"), "150 now\r\n", 'worker sleeps');
    });

    complete($self, 'worker sleeps', $done);
}

# a no of a server that has not come, or was not seen, and what a server says
# that never comes

{
    my $self = begin(at => 0, mode => 'active', dial => sub { });
    $self->{s}->send("550 no such file\r\n");
    is(told($self, "550 no such file\r\n"), "550 no such file\r\n", 'a no at once');
    $self->{s}->send("200 fine\r\n");
    is($self->{c}->line, "200 fine\r\n", 'a no at once, next reply');

    $self = begin(at => 0, mode => 'active', dial => sub { });
    $self->{s}->send("150 nothing\r\n", $done);
    is($self->{c}->line, "150 nothing\r\n", 'no data connection 150');
    is($self->{c}->line, $done, 'no data connection 226');

    $self = begin(at => 1, mode => 'passive');
    $self->{s}->send("550 no such file\r\n");
    is(told($self, "550 no such file\r\n"), "550 no such file\r\n",
        'a no at once, passive');
    $self->{s}->send("200 fine\r\n");
    is($self->{c}->line, "200 fine\r\n", 'a no at once, passive, next reply');
}

# a client that does not answer hears what the server says then

for my $mode ('active', 'passive') {
    my $name = "client does not answer, server $mode";
    my $self;

    # a client of the tests before may have left
    $t->new_log(qr/ftp client does not listen: Connection timed out/, sub {
        $self = begin(at => $impatient{$mode}, mode => $mode);
        $self->{s}->send("150 now\r\n$done");
    });
    is($self->{c}->line, "150 now\r\n", "$name 150");
    is($self->{c}->line, $done, "$name 226");

    $self->{far} //= $self->{server}->accept;
    is($self->{far}->ended, 'reset', "$name server's end");
}

# one that refuses, too

{
    my ($c, $s) = $t->session($server);
    my $client = $t->server;
    my @told = $t->active($c, $s, $client);
    $client->close;
    $c->command('RETR f');
    $s->line;
    my $far = $t->dial($s, @told);
    $s->send("150 now\r\n$done");
    is($c->line, "150 now\r\n", 'client refuses 150');
    is($c->line, $done, 'client refuses 226');
    is($far->ended, 'reset', "client refuses server's end");
}

# what is said meanwhile

{
    my $self = begin(at => 0, mode => 'active');
    my ($c, $s) = @$self{qw(c s)};
    $s->send("150 now\r\n$done");
    is(told($self, "150 now\r\n"), "150 now\r\n", 'ABOR before');
    $c->command('ABOR');
    is($s->line, "ABOR\r\n", 'ABOR goes on');
    is($c->line, $done, 'ABOR ends the wait');
    $s->send("200 fine\r\n", "225 nothing\r\n");
    is($c->line, "200 fine\r\n", 'ABOR NOOP');
    is($c->line, "225 nothing\r\n", 'ABOR reply');

    $self = begin(at => 0, mode => 'active');
    ($c, $s) = @$self{qw(c s)};
    $s->send("150 now\r\n");
    $c->line;
    $c->command('STAT');
    is($s->line, "STAT\r\n", 'STAT goes on');
    $s->send("213 half\r\n");
    is($c->line, "213 half\r\n", 'STAT reply');
    $s->send($done);
    is(told($self), '', '226 behind STAT');
    complete($self, '226 behind STAT', $done);
}

# ends

for my $mode ('active', 'passive') {
    my $self = begin(at => $way{$mode}, mode => $mode);
    my ($c, $s) = @$self{qw(c s)};
    $s->send("150 now\r\n$done");
    is(told($self, "150 now\r\n"), "150 now\r\n", "server ends, $mode");
    $s->finish;
    my $near = let_in($self);
    is($c->rest, $done, "server ends, $mode, client told");
    is($c->{end}, 'eof', "server ends, $mode, client's end");

    $self = begin(at => $way{$mode}, mode => $mode);
    ($c, $s) = @$self{qw(c s)};
    $s->send("150 now\r\n$done");
    is(told($self, "150 now\r\n"), "150 now\r\n", "client ends, $mode");
    $c->close;
    is($s->ended, 'eof', "client ends, $mode, server's end");

    $self = begin(at => $way{$mode}, mode => $mode);
    ($c, $s) = @$self{qw(c s)};
    $s->send("150 now\r\n421 good-bye\r\n");
    $s->finish;
    is($c->rest, "150 now\r\n421 good-bye\r\n", "421, $mode");
}

# the worker that dials is killed

{
    my ($one, $other) = $t->workers;
    my $session = $t->only_worker($one, sub { [$t->session($server)] });
    my $self = begin(session => $session, mode => 'active',
        dial => sub { my @told = @_; $t->only_worker($other, sub {
            my $far = $t->dial($session->[1], @told, before => 'file');
            $t->worker_of($far);
            return $far;
        }) });

    $self->{s}->send("150 now\r\n$done");
    is(told($self, "150 now\r\n"), "150 now\r\n", 'worker killed before');
    $t->kill_worker($other);
    is($self->{c}->line, $done, 'worker killed 226');
    is($self->{far}->ended, 'reset', "worker killed server's end");
}

# a worker that has to leave

{
    my $self = begin(at => 0, mode => 'active');
    $self->{s}->send("150 now\r\n$done");
    is(told($self, "150 now\r\n"), "150 now\r\n", 'worker leaves before');
    $t->reload;
    like($self->{c}->rest, qr/\A(?:\Q$done\E)?\z/, 'worker leaves');
    ok($self->{c}{end}, 'worker leaves, end');
}

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by \d+/);
