#!/usr/bin/perl

# Random work in every pair of modes while workers are killed, stopped for a
# moment and reloaded, and strangers try both ports: no transfer is mixed up, a
# cut one looks cut, and in the end every port and descriptor is free.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpModes;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

$t->run(config(10, 40));

my $seed = $ENV{TEST_NGINX_SEED} || int(time * 1000) % 1_000_000;
srand $seed;
note("TEST_NGINX_SEED=$seed");

# commands for the control servers: as the client wants, passive and active
# toward the server
my @commands = (['PASV', 'PORT', 'EPRT'], ['PORT', 'EPRT'], ['PASV', 'EPSV']);

my (@sessions, %count, @wrong);
my $serial = 0;
my $until = time + ($ENV{TEST_NGINX_VALGRIND} ? 11 : 6);

$Test::Nginx::FtpConn::QUIET = 1;

while (time < $until) {
    my $dice = rand;

    if (@sessions < 60 && $dice < 0.2) {
        begin();

    } elsif ($dice < 0.45) {
        my ($session) = grep { !$_->{d} } shuffled();
        agree($session) if $session;

    } elsif ($dice < 0.8) {
        my ($session) = grep { $_->{d} && !$_->{ready} } shuffled();
        dial($session) if $session;

    } elsif ($dice < 0.97) {
        my ($session) = grep { $_->{ready} } shuffled();
        transfer($session) if $session;

    } elsif ($dice < 0.98) {
        my @serving = grep { !$t->leaving($_) } $t->workers;
        $t->kill_worker($serving[rand @serving]);
        $count{kill}++;

    } elsif ($dice < 0.985) {
        $t->reload(rand() < 0.5 ? config(10, 40) : config(12, 35));
        $count{reload}++;

    } elsif ($dice < 0.995) {
        # what the others do meanwhile waits at its door
        my @workers = $t->workers;
        $t->paused($workers[rand @workers], sub { burst() });
        $count{pause}++;
    }
}

is("@wrong[0 .. ($#wrong > 5 ? 5 : $#wrong)]", '', 'nothing mixed up')
    or diag("TEST_NGINX_SEED=$seed");
ok((grep { /^complete/ } keys %count), 'transfers');
note(join ', ', map { "$_ $count{$_}" } sort keys %count);

# the end: nothing but what a fresh worker has and its door, and all ports

drop($sessions[0]) while @sessions;

# one that waits for its mate waits until ftp_data_timeout if the worker of their
# control connection was killed
ok($t->wait_for('nothing open', sub { !grep { sockets($_) } $t->workers }),
    'nothing open') or diag("TEST_NGINX_SEED=$seed");
$t->wait_for('two workers', sub { $t->workers == 2 });
$t->reload(config(10, 40));

my (%ports, @kept);

for (1 .. 31) {
    my ($c, $s) = $t->session($server);
    my $reply;

    $t->wait_for('a port', sub {
        $reply = $t->passive($c, $s, $server->passive);
        return $reply !~ /\A425 /;
    });

    $ports{$c->passive_port($reply)}++;
    push @kept, $c, $s;
}

is(scalar keys %ports, 31, 'every port is free');

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by/);

sub shuffled {
    return map { $sessions[rand @sessions] } @sessions ? 1 .. 3 : ();
}

# Connections of a worker.
sub sockets {
    my ($worker) = @_;

    my %inode;

    for my $file ('/proc/net/tcp', '/proc/net/tcp6') {
        open my $fh, '<', $file or next;

        while (<$fh>) {
            my @field = split;
            # not the listening ones
            $inode{$field[9]} = 1 if $field[3] ne '0A';
        }
    }

    return grep { /socket:\[(\d+)\]/ && $inode{$1} }
        map { readlink // () } glob "/proc/$worker/fd/*";
}

sub begin {
    # a session whose worker was killed never reaches the server
    local $Test::Nginx::FtpConn::DEADLINE = 1;

    my $kind = int rand 3;
    my ($c, $s) = eval {
        $t->session($server, port => $t->port($kind),
            bind => '127.0.0.' . (1 + int rand 5));
    };

    if ($s) {
        push @sessions, { c => $c, s => $s, id => ++$serial, kind => $kind };
        return;
    }

    $server->accept->close while $server->touched;
}

sub agree {
    my ($session) = @_;

    local $Test::Nginx::FtpConn::DEADLINE = 2;

    my $of = $commands[$session->{kind}];
    my $command = $of->[rand @$of];

    $session->{d} = eval {
        Test::Nginx::FtpModes->agree($t, @$session{qw(c s)}, $command);
    };

    # killed, or the range is full
    return drop($session) if !$session->{d};

    $session->{d}{kind} = ($command =~ /^P/ ? $command : $command eq 'EPRT'
        ? 'PORT' : 'PASV') . " $session->{kind}";
    $count{agreed}++;

    return;
}

# One step of what leads to a data connection.
sub dial {
    my ($session) = @_;

    my $d = $session->{d};
    my $dice = rand;

    # Once its control connection is gone the port may be another session's: a
    # client or server that dials all the same would be in the wrong place.
    return drop($session) if is_dead($session);

    if ($dice < 0.1 && !$session->{asked}) {
        # given up
        $d->leave;
        delete $session->{d};

    } elsif ($dice < 0.2) {
        my $port = rand() < 0.5 ? $d->{port} : $d->{told} && $d->{told}[1];
        my $stranger = $port && eval {
            Test::Nginx::FtpClient->connect(port => $port, bind => '127.0.0.9');
        };

        push @wrong, "$session->{id} stranger"
            if $stranger && $stranger->ended ne 'reset';
        $count{stranger}++;

    } else {
        if (!$session->{asked}++) {
            $session->{c}->command('RETR f');
            return;
        }

        my @missing = grep { !$d->{$_->[0]} && $d->{$_->[1]} }
            [near => 'port', 'dial_client'], [far => 'told', 'dial_server'];

        if (@missing) {
            my $dial = $missing[rand @missing][2];
            eval { $d->$dial } or return drop($session);
        }

        $session->{ready} = @missing < 2;
    }

    return;
}

sub transfer {
    my ($session) = @_;

    local $Test::Nginx::FtpConn::DEADLINE = 2;

    my $d = delete $session->{d};
    delete @$session{qw(ready asked)};

    # where the proxy dials it does, or something breaks
    my $patience = time + 10;
    my $broken;

    until ($broken || !grep { !$d->{$_->[0]} && !$d->{$_->[1]}->touched }
        [qw(near client)], [qw(far server)])
    {
        my @open = grep { defined } @$d{qw(near far)}, $session->{c};
        $_->fill(time + 0.002) for @open;
        $broken = grep { $_->{end} } @open;

        if (time > $patience) {
            push @wrong, "$session->{id} hangs";
            last;
        }
    }

    my ($near, $far) = $broken ? () : eval { $d->ends };

    # killed, or its mate was
    if (!$far) {
        $count{nobody}++;
        $d->leave;
        return drop($session);
    }

    my $sent = "$session->{id} " . 'x' x rand 50_000;
    my $dice = rand;

    $far->send($sent);

    if ($dice < 0.1) {
        $far->reset;
    } elsif ($dice < 0.2) {
        $near->reset;
    } else {
        $far->finish;
    }

    if ($near->socket) {
        my $got = $near->rest;

        push @wrong, "$session->{id} $d->{kind} mixed: '"
            . substr($got, 0, 20) . "', " . length($got) . ' of ' . length $sent
            if $got ne substr $sent, 0, length $got;

        if ($near->{end} eq 'eof') {
            push @wrong, "$session->{id} $d->{kind} cut: " . length($got) . ' of '
                . length $sent if $got ne $sent || $dice < 0.1;
            $count{"complete $d->{kind}"}++;
        } else {
            $count{cut}++;
        }
    }

    $d->leave;
    $session->{s}->send("226 done\r\n") if $session->{s}->line =~ /^RETR/;
    drop($session) if $session->{c}->line ne "226 done\r\n" || rand() < 0.3;

    return;
}

sub is_dead {
    my ($session) = @_;

    $_->waiting for @$session{qw(c s)};

    return $session->{c}{end} || $session->{s}{end};
}

# Many at a time.
sub burst {
    for my $session (grep { $_->{d} && !$_->{ready} } @sessions) {
        my $d = $session->{d};

        next if is_dead($session);
        $session->{c}->command('RETR f') if !$session->{asked}++;
        eval { $d->dial_client } if $d->{port} && !$d->{near};
        eval { $d->dial_server } if $d->{told} && !$d->{far};
        $session->{ready} = 1;
    }

    return;
}

sub drop {
    my ($session) = @_;

    $session->{d}->leave if $session->{d};
    $_->close for $session->{s};
    rand() < 0.5 ? $session->{c}->close : $session->{c}->reset;
    @sessions = grep { $_ != $session } @sessions;

    return;
}

sub config {
    my ($from, $to) = @_;

    my $range = "min_port=${\$t->port($from)} max_port=${\$t->port($to)}";
    my $conf = "    ftp_client_mode any;\n";
    my $n = 0;

    for my $mode ('client', 'passive', 'active') {
        $conf .= <<"END";
    server {
        listen 127.0.0.1:${\$t->port($n++)};
        ftp_ctrl zone=ftp:1m $range;
        ftp_server_mode $mode;
        ftp_data_timeout 12s;
        proxy_pass ${\$server->at};
    }
END
    }

    return $conf . <<"END";
    server {
        listen 127.0.0.1:${\$t->range(10, 40)};
        ftp_data zone=ftp;
    }
END
}
