#!/usr/bin/perl

# A worker that has no connection to spare, of worker_connections, or no
# descriptor: a data connection that cannot be is reset, or 425, never a FIN that
# looks like an empty file; the log tells, and nothing is left of it.

use strict;
use warnings;

use FindBin;
use IO::Select;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpModes;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

# the range is small: what is kept by mistake is missed soon

my $conf = <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(12)};
        ftp_client_mode any;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_client_mode active;
        ftp_server_mode passive;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=ftp;
        ftp_server_mode active;
        proxy_pass ${\$server->at};
    }

    # takes one connection of a worker's for each of the test's
    server {
        listen 127.0.0.1:${\$t->port(3)} proxy_protocol;
        proxy_protocol_timeout 1h;
        proxy_pass 127.0.0.1:1;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 12)};
        ftp_data zone=ftp;
    }
EOF

$t->run($conf, connections => 60);

# ---- agreements

# A data connection agreed on, in these modes of the client and the server.
sub agree {
    my ($client, $far) = @_;

    my $port = $client eq $far ? 0 : $client eq 'active' ? 1 : 2;

    return Test::Nginx::FtpModes->agree($t,
        $t->session($server, port => $t->port($port)),
        $client eq 'active' ? 'PORT' : 'EPSV');
}

# The control connection goes, too.
sub leave {
    my ($d) = @_;

    $d->leave;

    for my $end (qw(c s)) {
        my $control = delete $d->{$end} or next;
        $control->close;
    }

    return;
}

my @modes = (
    [qw(passive passive)], [qw(active active)], [qw(active passive)],
    [qw(passive active)],
);

# ---- workers

sub descriptors {
    my ($worker) = @_;

    return map { m{(\d+)\z} } glob "/proc/$worker/fd/*";
}

sub has_ended { return IO::Select->new($_[0]->socket)->can_read(0) }

# Leaves the worker so many connections.
sub fill {
    my ($worker, $free) = @_;

    my @held;

    while (1) {
        my $conn = Test::Nginx::FtpClient->connect(port => $t->port(3));
        my $taken;

        $t->wait_for('a worker to accept or refuse', sub {
            return 1 if has_ended($conn);
            my $row = $conn->peer_row;
            return $taken = $row && $row->{inode};
        });

        last unless $taken;
        push @held, $conn;
    }

    # what is refused is accepted, for a moment
    @held = grep { !has_ended($_) } @held;

    for my $conn (map { pop @held } 1 .. $free) {
        $conn->finish;
        die "no room made\n" unless $conn->ended;
    }

    return @held;
}

# Leaves the worker so many descriptors; as many as it wants without a number.
sub limit {
    my ($worker, $free) = @_;

    my $limit = 1024;

    if (defined $free) {
        my %used = map { $_ => 1 } descriptors($worker);

        for ($limit = 0; $free >= 0; $limit++) {
            $free-- unless $used{$limit};
        }

        $limit--;
    }

    system('prlimit', '--pid', $worker, "--nofile=$limit:") == 0
        or die "no prlimit\n";

    return;
}

# What is left is what was there before, and the zone has room.
sub nothing_left {
    my ($worker, $before, $name) = @_;

    ok($t->wait_for('nothing left', sub { descriptors($worker) <= $before }),
        "$name: no descriptor left");

    for my $modes (@modes) {
        my $d = agree(@$modes);
        is($d->begin->complete, '', "$name: works, @$modes");
        leave($d);

        # or what comes next finds too few connections
        $t->wait_for('nothing left', sub { descriptors($worker) <= $before });
    }

    return;
}

my ($worker, $other) = $t->workers;

# opens the doors between workers
for my $only ($worker, $other) {
    $t->only_worker($only, sub {
        my $d = agree('passive', 'active');
        is($d->begin->complete, '', 'before');
        leave($d);
    });
}

# ---- no connections

my $alert = qr/\[alert\].* worker_connections are not enough/;

# client's mode, server's, connections left, what becomes of client and server
for my $case (
    [qw(passive passive), 0, 'reset', 'untouched'],
    [qw(passive passive), 1, 'reset', 'untouched'],
    [qw(passive passive), 2, ''],
    [qw(active active),   0, 'untouched', 'reset'],
    [qw(active active),   1, 'untouched', 'reset'],
    [qw(active active),   2, ''],
    [qw(active passive),  0, '425', 'untouched'],
    [qw(active passive),  1, 'reset', 'untouched'],
    [qw(active passive),  2, ''],
    [qw(passive active),  0, 'reset', 'reset'],
    [qw(passive active),  1, 'waits', 'reset'],
    [qw(passive active),  2, ''],
) {
    my ($client, $far, $free, $near_end, $far_end) = @$case;
    my $name = "$client $far, $free connections";

    $t->only_worker($worker, sub {
        my $before = descriptors($worker);
        my $d = agree($client, $far);
        my @held = fill($worker, $free);

        if (!$near_end) {
            is($d->begin->complete, '', $name);

        } else {
            my $line = $t->new_log($alert, sub { $d->begin });
            ok($line, "$name: log");

            if ($near_end eq '425') {
                like($d->{c}->line, qr/\A425 /, "$name: 425");
                is($t->dialog($d->{c}, $d->{s}, NOOP => '200 okay'), '',
                    "$name: server was not asked");
            }

            refused("$name: client", $near_end, @$d{qw(near client)});
            refused("$name: server", $far_end, @$d{qw(far server)});

            # the control connection gives up what waits for it
            my $near = $d->{near};
            delete($d->{$_})->close for qw(c s);
            is($near->ended, 'reset', "$name: waits no more")
                if $near_end eq 'waits';
        }

        leave($d);
        $_->close for @held;
        nothing_left($worker, $before, $name);
    });
}

# How a side fares: whether it is reset, where it has a connection, or never hears of it.
sub refused {
    my ($name, $end, $conn, $listener) = @_;

    return if $end eq 'waits';

    if ($end eq 'untouched') {
        ok(!$listener->touched, "$name untouched");
        return;
    }

    $conn //= $listener->accept if $end eq 'reset' || $listener->touched;
    is($conn->ended, 'reset', "$name reset") if $conn;

    return;
}

# ---- a socket on its way to a worker without room for it

for my $what ('connections', 'descriptors') {
    my $before = descriptors($worker);
    my $d = $t->only_worker($other, sub { agree('passive', 'active') });
    my @held;

    $t->only_worker($worker, sub {
        is($t->worker_of($d->dial_client), $worker, "$what: client's worker");
        @held = fill($worker, 0) if $what eq 'connections';
    });

    limit($worker, 0) if $what eq 'descriptors';

    # a new line: the port may have been that of an earlier case
    $t->paused($worker, sub {
        $t->new_log(qr/ftp finished port $d->{told}[1] of .*: handed over/,
            sub { $d->dial_server });
    });

    is($d->{near}->ended, 'reset', "$what: client");
    is($d->{far}->ended, 'reset', "$what: server");

    if ($what eq 'descriptors') {
        ok($t->wait_log(qr/\[error\].*another worker's socket/), "$what: log");
    }

    limit($worker) if $what eq 'descriptors';
    leave($d);
    $_->close for @held;
    nothing_left($worker, $before, $what);
}

# ---- no descriptors: what is not accepted waits with the kernel

for my $case (
    [qw(passive passive), 0],
    [qw(passive passive), 1, 'reset', 'untouched'],
    [qw(passive passive), 2],
    [qw(active active),   0],
    [qw(active active),   1, 'untouched', 'reset'],
    [qw(active active),   2],
    [qw(active passive),  0, '425', 'untouched'],
    [qw(active passive),  1, 'reset', 'untouched'],
    [qw(active passive),  2],
    [qw(passive active),  0],
    [qw(passive active),  1],
    [qw(passive active),  2],
) {
    my ($client, $far, $free, $near_end, $far_end) = @$case;
    my $name = "$client $far, $free descriptors";

    $t->only_worker($worker, sub {
        my $before = descriptors($worker);
        my $d = agree($client, $far);

        limit($worker, $free);

        if ($near_end) {
            my $line = $t->new_log(qr/Too many open files|os error 24/, sub {
                $d->begin;
            });
            like($line, qr/\[(?:error|alert)\]/, "$name: log");

            like($d->{c}->line, qr/\A425 /, "$name: 425")
                if $near_end eq '425';
            refused("$name: client", $near_end, @$d{qw(near client)})
                if $near_end ne '425';
            refused("$name: server", $far_end, @$d{qw(far server)});
            limit($worker);

        } else {
            $d->begin;
            $t->wait_log(qr/accept4\(\) failed \(24: /)
                if $free < grep { $d->{$_} } 'near', 'far';
            limit($worker);
            is($d->complete, '', $name);
        }

        leave($d);
        nothing_left($worker, $before, $name);
    });
}

# ---- a listening socket that is no data server's any more: FIN is FIN again

my $plain = $t->server;

$t->reload(<<"EOF", connections => 60);
    server {
        listen 127.0.0.1:${\$t->range(10, 12)};
        proxy_pass ${\$plain->at};
    }
EOF

{
    my $near = Test::Nginx::FtpClient->connect(port => $t->port(10));
    my $far = $plain->accept;

    $far->send('plain');
    $far->finish;
    is($near->rest, 'plain', 'plain proxy');
    is($near->{end}, 'eof', 'plain proxy end');
}

$t->reload($conf, connections => 60);

{
    ($worker) = $t->workers;
    my $d = agree('passive', 'passive');
    is($d->begin->complete, '', 'a data server again');
    leave($d);
}

$t->done(allow => qr/worker_connections are not enough|socket\(\) failed \(24:/);
