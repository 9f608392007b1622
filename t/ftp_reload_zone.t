#!/usr/bin/perl

# Reloads that do to a zone what is hard on sessions of before: another range,
# another size, two that change places, one that goes and comes back, no data
# server any more, another number of workers; and the two steps of an upgrade.  A
# transfer goes on, whatever happens; a control connection works on where that
# can be, and is told 425 where it cannot.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpModes;

my $t = Test::Nginx::Ftp->new;
my $modes = 'Test::Nginx::FtpModes';
my $server = $t->server(addr => '127.0.0.91');

# Control servers of a zone, first port and range; data => 0 leaves out the
# data server.
sub zone {
    my ($name, $first, $from, $to, %arg) = @_;

    my $size = $arg{size} // '1m';
    my $range = "min_port=${\$t->port($from)} max_port=${\$t->port($to)}";
    my $conf = '';

    for my $mode ('client', 'passive', 'active') {
        $conf .= <<"END";
    server {
        listen 127.0.0.1:${\$t->port($first++)};
        ftp_ctrl zone=$name:$size $range;
        ftp_client_mode any;
        ftp_server_mode $mode;
        proxy_pass ${\$server->at};
    }
END
    }

    $conf .= <<"END" if $arg{data} // 1;
    server {
        listen 127.0.0.1:${\$t->range($from, $to)};
        ftp_data zone=$name;
    }
END

    return $conf;
}

my $workers = 2;
my %cases = (
    active  => [PORT => 0],
    both    => [PASV => 2],
    neither => [PORT => 1],
    passive => [PASV => 0],
);

# A session for each case, and what it has: a transfer under way, and a data
# connection agreed on.
sub sessions {
    my ($first) = @_;

    my @all;

    for my $case (sort keys %cases) {
        my ($command, $port) = @{$cases{$case}};
        my ($c, $s) = $t->session($server, port => $t->port($first + $port));
        my $running = $modes->agree($t, $c, $s, $command)->begin;

        $s->line eq "RETR f\r\n" or die "no command\n";
        my ($near, $far) = $running->ends;
        $far->send('before ');
        $near->bytes(7) eq 'before ' or die "no transfer\n";

        my ($c2, $s2) = $t->session($server, port => $t->port($first + $port));

        push @all, { case => $case, command => $command,
            running => $running, c => $c, s => $s,
            agreed => $modes->agree($t, $c2, $s2, $command),
            c2 => $c2, s2 => $s2 };
    }

    return @all;
}

# The transfer goes on; what was agreed on works as told (1, or 0), and what
# is asked for now: 1 works, 0 is 425.
sub still {
    my ($name, $all, $agreed, $next) = @_;

    for my $one (@$all) {
        my $case = $one->{case};
        my ($near, $far) = $one->{running}->ends;

        $far->send('after');
        $far->finish;
        is($near->rest, 'after', "$name, $case: transfer");
        is($near->{end}, 'eof', "$name, $case: transfer ends");
        $one->{s}->send("226 done\r\n");
        is($one->{c}->line, "226 done\r\n", "$name, $case: control");

        # the proxy dials, nobody has to listen
        my ($old, $new) = $case eq 'neither' ? (1, 1) : ($agreed, $next);
        my $d = $one->{agreed};

        if ($old) {
            is($d->begin->complete, '', "$name, $case: agreed before");
        } else {
            # or nobody listens
            for my $who (grep { $d->{$_->[0]} } ['port', 'dial_client'],
                ['told', 'dial_server'])
            {
                my $dial = $who->[1];
                my $end = eval { $d->$dial->ended } // $@;
                like($end, qr/reset|refused/, "$name, $case: $dial is late");
            }

            ok(!$d->{$_}->touched, "$name, $case: $_ untouched")
                for grep { $d->{$_} } 'client', 'server';
        }

        for my $turn (1 .. ($new ? 4 : 1)) {
            my $line = $new ? '' : $t->new_log(qr/no worker serves the old zone/,
                sub { asked($one) });

            if ($new) {
                is($modes->works($t, @$one{qw(c s)}, $one->{command}), '',
                    "$name, $case: works, $turn");
            } else {
                ok($line, "$name, $case: log");
                like($one->{c}->line, qr/\A425 /, "$name, $case: 425");
                is($t->dialog(@$one{qw(c s)}, NOOP => '200 okay'), '',
                    "$name, $case: goes on");
            }
        }

        $_->leave for @$one{qw(running agreed)};
        $_->close for @$one{qw(c s c2 s2)};
    }

    ok($t->wait_for('the old workers to end', sub {
        $t->workers == $workers;
    }), "$name: old workers end");

    return;
}

# The client asks, and the server says yes if it is asked at all.
sub asked {
    my ($one) = @_;

    my ($c, $s) = @$one{qw(c s)};

    if ($one->{case} eq 'passive') {
        $c->command('PASV');
        $s->line;
        $s->send("227 (127,0,0,91,19,136)\r\n");
    } else {
        $one->{trap} //= $t->server;
        $c->command($one->{command} eq 'PORT'
            ? $t->active_command($one->{trap}) : 'PASV');
    }

    return;
}

sub works {
    my ($name, $first) = @_;

    for my $case (sort keys %cases) {
        my ($command, $port) = @{$cases{$case}};
        my ($c, $s) = $t->session($server, port => $t->port($first + $port));

        is($modes->works($t, $c, $s, $command), '', "$name, $case: new session");
        $_->close for $c, $s;
    }

    return;
}

my $conf = zone('ftp', 0, 20, 27);

$t->run($conf);

# ---- another range, none of whose ports is an old one: sessions of before get
# ports that somebody listens on

{
    my @all = sessions(0);

    $t->reload(zone('ftp', 0, 30, 37));
    still('range alone', \@all, 0, 1);
    works('range alone', 0);
    $t->reload($conf);

    @all = sessions(0);

    $t->reload(zone('ftp', 0, 30, 37) . <<"END");
    # what was agreed on before can still come
    server {
        listen 127.0.0.1:${\$t->range(20, 27)};
        ftp_data zone=ftp;
    }
END
    still('range', \@all, 1, 1);
    works('range', 0);
}

# ---- the number of workers

for my $number (1, 4, 2) {
    my @all = sessions(0);

    $workers = $number;
    $t->reload(zone('ftp', 0, 30, 37), workers => $workers);
    still("$workers workers", \@all, 1, 1);
    works("$workers workers", 0);
}

# ---- another size, which is another zone

{
    my @all = sessions(0);

    $t->reload(zone('ftp', 0, 30, 37, size => '2m'));
    still('size', \@all, 0, 0);
    works('size', 0);
}

# ---- the same for sessions that are older than two reloads

{
    my @all = sessions(0);

    $t->reload(zone('ftp', 0, 30, 37, size => '2m'));
    $t->reload(zone('ftp', 0, 30, 37, size => '3m'));
    still('older size', \@all, 0, 0);
    works('older size', 0);
}

# ---- a zone that goes, and one of the same name that is another one

{
    my @all = sessions(0);

    $t->reload(zone('other', 0, 40, 47));
    still('gone', \@all, 0, 0);
    works('gone', 0);

    @all = sessions(0);
    $t->reload(zone('other', 0, 40, 47) . zone('ftp', 3, 30, 37));
    still('back', \@all, 1, 1);
    works('back', $_) for 0, 3;
}

# ---- two that change places: names, servers and ranges

{
    my @all = (sessions(0), sessions(3));

    $t->reload(zone('ftp', 0, 40, 47) . zone('other', 3, 30, 37));
    still('places', \@all, 0, 1);
    works('places', $_) for 0, 3;
}

# ---- no data server any more

{
    my @all = sessions(0);

    $t->reload(zone('ftp', 0, 40, 47, data => 0));

    for my $one (@all) {
        my ($near, $far) = $one->{running}->ends;

        $far->send('after');
        $far->finish;
        is($near->rest, 'after', "no data server, $one->{case}: transfer");
        is($near->{end}, 'eof', "no data server, $one->{case}: end");
        $_->leave for @$one{qw(running agreed)};
        $_->close for @$one{qw(c s c2 s2)};
    }

    $t->wait_for('the old workers to end', sub { $t->workers == 2 });
}

# ---- an upgrade: the old workers' zone is not the new ones'

$t->stop;
$t->run($conf, daemon => 1);

{
    my @all = sessions(0);

    $t->upgrade;
    still('upgrade', \@all, 0, 0);
    works('upgrade', 0);
}

$t->done;
