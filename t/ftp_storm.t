#!/usr/bin/perl

# Random work of many sessions while workers are killed and configurations
# reloaded: no transfer is mixed up, a cut one looks cut, no stranger gets
# through, and in the end every port is free.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(config(10, 20));

my $seed = $ENV{TEST_NGINX_SEED} || int(time * 1000) % 1_000_000;
srand $seed;
note("TEST_NGINX_SEED=$seed");

my (@sessions, %count, @wrong);
my $serial = 0;
my $until = time + 5;

$Test::Nginx::FtpConn::QUIET = 1;

while (time < $until) {
    my $dice = rand;

    if (@sessions < 40 && $dice < 0.3) {
        begin();

    } elsif ($dice < 0.7) {
        reserve($sessions[rand @sessions]) if @sessions;

    } elsif ($dice < 0.96) {
        my ($session) = grep { $_->{near} } @sessions;
        transfer($session) if $session;

    } elsif ($dice < 0.985) {
        my @serving = grep { !$t->leaving($_) } $t->workers;
        $t->kill_worker($serving[rand @serving]);
        $count{kill}++;

    } elsif ($dice < 0.99) {
        $t->reload(rand() < 0.5 ? config(10, 20) : config(12, 25));
        $count{reload}++;
    }
}

is("@wrong[0 .. ($#wrong > 5 ? 5 : $#wrong)]", '', 'nothing mixed up')
    or diag("TEST_NGINX_SEED=$seed");
cmp_ok($count{complete}, '>', 0, 'transfers');
note(join ', ', map { "$_ $count{$_}" } sort keys %count);

# the end: all ports of the range, as many sessions

drop($sessions[0]) while @sessions;
$t->wait_for('two workers', sub { $t->workers == 2 });
$t->reload(config(10, 20));

my (%ports, @kept);

for (1 .. 11) {
    my ($c, $s) = $t->session($server);
    my $reply;

    $t->wait_for('a port', sub {
        $reply = $t->passive($c, $s, $server->passive);
        return $reply !~ /\A425 /;
    });

    $ports{$c->passive_port($reply)}++;
    push @kept, $c, $s;
}

is(scalar keys %ports, 11, 'every port is free');

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by/);

sub begin {
    # a session whose worker was killed never reaches the server
    local $Test::Nginx::FtpConn::DEADLINE = 1;

    my ($c, $s) = eval {
        $t->session($server, bind => '127.0.0.' . (1 + int rand 5));
    };

    if ($s) {
        push @sessions, { c => $c, s => $s, id => ++$serial,
            listener => $server->passive };
        return;
    }

    $server->accept->close while $server->touched;
}

sub reserve {
    my ($session) = @_;

    return if $session->{near};

    my ($c, $s, $listener) = @$session{qw(c s listener)};
    my $reply = eval {
        $t->passive($c, $s, $listener, rand() < 0.5 ? 'PASV' : 'EPSV');
    };

    # killed
    return drop($session) if !$reply;

    return $count{425}++ if $reply =~ /\A425 /;

    my $port = $c->passive_port($reply) or return drop($session);
    my $dice = rand;

    if ($dice < 0.7) {
        my $near = eval { $c->data($port) } or return;

        # either the server hears of it, or it is reset
        my $patience = time + 5;
        until ($listener->touched || $near->{end} || time > $patience) {
            $near->fill(time + 0.005);
        }

        if ($listener->touched) {
            @$session{qw(near far)} = ($near, $listener->accept);
        } else {
            push @wrong, "$session->{id} hangs" unless $near->{end};
            $count{refused}++;
        }

    } elsif ($dice < 0.8) {
        my $stranger = eval { $c->data($port, bind => '127.0.0.9') } or return;

        push @wrong, "$session->{id} stranger" if $stranger->ended ne 'reset'
            || $listener->touched;
        $count{stranger}++;
    }
}

sub transfer {
    my ($session) = @_;

    my ($near, $far) = delete @$session{qw(near far)};
    my $sent = "$session->{id} " . 'x' x rand 50_000;

    $far->send($sent);
    $far->finish;

    my $got = $near->rest;

    if ($near->{end} eq 'eof') {
        push @wrong, "$session->{id} cut" if $got ne $sent;
        $count{complete}++;

    } else {
        push @wrong, "$session->{id} mixed"
            if $got ne substr $sent, 0, length $got;
        $count{cut}++;
    }

    drop($session) if rand() < 0.3;
}

sub drop {
    my ($session) = @_;

    rand() < 0.5 ? $session->{c}->close : $session->{c}->reset;
    @sessions = grep { $_ != $session } @sessions;
}

sub config {
    my ($from, $to) = @_;

    return <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port($from)} max_port=${\$t->port($to)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 30)};
        ftp_data zone=ftp;
    }
EOF
}
