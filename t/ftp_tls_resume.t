#!/usr/bin/perl

# Toward the server a data connection resumes the TLS session of its own control
# connection: each time, in each worker, over a reload, with tickets that count
# once.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpLegs;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] }
    'server', 'client', 'stranger';

sub ctrl {
    my ($port, $zone, $from, $more, $listen) = @_;

    $listen = $listen ? " $listen" : '';

    return <<"END";
    server {
        listen 127.0.0.1:${\$t->port($port)}$listen;
        ftp_ctrl zone=$zone min_port=${\$t->port($from)} max_port=${\$t->port($from + 7)};
        proxy_pass ${\$server->at};
        $more
    }
END
}

sub data {
    my ($zone, $from, $more) = @_;

    return <<"END";
    server {
        listen 127.0.0.1:${\$t->range($from, $from + 7)};
        ftp_data zone=$zone;
        $more
    }
END
}

my $verify = "proxy_ssl_verify on; proxy_ssl_trusted_certificate $dir/ca.crt; "
    . 'proxy_ssl_server_name on; proxy_ssl_name server;';

sub conf {
    return <<"EOF";
    $certificates
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
${\ctrl(0, 'ftp:1m', 20, 'ftp_auth_tls on;')}
${\ctrl(1, 'ftp', 20, '', 'ssl')}
${\ctrl(2, 'ftp', 20, 'ftp_auth_tls on; ftp_proxy_auth_tls on;')}
${\ctrl(3, 'ftp', 20, 'ftp_proxy_auth_tls on;', 'ssl')}
${\ctrl(4, 'off:1m', 28, 'ftp_auth_tls on; proxy_ssl_session_reuse off;')}
${\ctrl(5, 'checked:1m', 36, "$verify ftp_auth_tls on;")}
${\ctrl(6, 'ftp', 20, 'ftp_auth_tls on; proxy_ssl_protocols TLSv1.2;')}
${\ctrl(7, 'tiny:48k', 44, 'ftp_auth_tls on;')}
${\data('ftp', 20, '')}
${\data('off', 28, 'proxy_ssl_session_reuse off;')}
${\data('checked', 36, $verify)}
${\data('tiny', 44, '')}
EOF
}

$t->run(conf());

my %legs = map {
    my ($way, $port) = @$_;

    $way => Test::Nginx::FtpLegs->new($t,
        server => $server,
        serve  => { explicit => $way eq 'explicit' },
        ports  => { plain => $port, explicit => $port, implicit => $port + 1 },
    );
} ['implicit', 0], ['explicit', 2];

my $words = 0;

# A server that resumes in that way, for one session that is ready: the control
# connection's ends, what its data connections are served with.
sub session {
    my ($legs, $kind, $name, $version, $sessions, %arg) = @_;

    my $context = $arg{context} // $tls->context(cert => $cert{server},
        version => $version, sessions => $sessions);
    my %serve = (context => $context, own => 'session ' . ++$words);

    my ($c, $s) = $legs->ready($kind, $name, serve => \%serve, %arg);

    return ($c, $s, serve => \%serve);
}

# A transfer; whether its connection to the server was a resumed one.
sub resumed {
    my ($legs, $c, $s, $name, $kind, $mode, $verb, @serve) = @_;

    my ($near, $far) = $legs->transfer($c, $s, $name, $kind ne 'plain', 1, $mode,
        $verb, @serve);

    return $far->is_resumed;
}

my @kinds = (['PASV', 'RETR'], ['EPSV', 'STOR'], ['EPSV', 'RETR'], ['PASV', 'STOR']);

sub all_resumed {
    my ($legs, $c, $s, $name, $kind, @serve) = @_;

    my $resumed = join ' ', map {
        resumed($legs, $c, $s, $name, $kind, @$_, @serve)
    } @kinds;

    is($resumed, '1 1 1 1', "$name resumed");

    return;
}

# ---- each way, each kind, several times in a row

for my $way ('implicit', 'explicit') {
    my $legs = $legs{$way};

    for my $version (1.2, 1.3) {
        for my $sessions ('tickets', 'ids', 'once') {
            for my $kind ('plain', 'explicit', 'implicit') {
                my $name = "$way server $version $sessions, $kind client";
                my ($c, $s, @serve) = session($legs, $kind, $name, $version,
                    $sessions);

                ok(!$s->is_resumed, "$name new session");
                all_resumed($legs, $c, $s, $name, $kind, @serve);
            }
        }

        # a server that has no sessions

        my $name = "$way server $version never";
        my ($c, $s, @serve) = session($legs, 'plain', $name, $version, 'never');
        is(resumed($legs, $c, $s, $name, 'plain', @$_, @serve), 0, $name)
            for @kinds;
    }
}

my $legs = $legs{explicit};

# ---- a server that insists

# As vsftpd does it: the data connection of a stranger is closed, and 522.
sub insisting {
    my ($c, $s, $name, $verb, @serve) = @_;

    my $listener = $t->server;
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    my $far = $listener->accept;

    is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$name 150");
    $tls->serve($far, %{ { @serve }->{serve} }, mute => 1)->handshake;

    if (!$far->is_resumed) {
        $far->reset;
        $s->send("522 session reuse required\r\n");
        return $near->ended . ' ' . $c->line;
    }

    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);

    $from->send('data');
    $from->finish;
    my $got = $to->rest;
    $s->send("226 done\r\n");

    return "$got $to->{end} " . $c->line;
}

for my $version (1.2, 1.3) {
    my $name = "insisting $version";
    my ($c, $s, @serve) = session($legs, 'plain', $name, $version, 'once');
    is(insisting($c, $s, $name, $_, @serve), "data eof 226 done\r\n", "$name $_")
        for 'RETR', 'STOR', 'RETR', 'STOR';

    # reuse is off

    ($c, $s, @serve) = session($legs{implicit}, 'plain', "off $version", $version,
        'tickets', port => 4);
    is(insisting($c, $s, $name, $_, @serve),
        "reset 522 session reuse required\r\n", "off $version $_")
        for 'RETR', 'STOR';
    is(resumed($legs{implicit}, $c, $s, "off $version", 'plain', @$_, @serve), 0,
        "off $version") for @kinds;
}

# ---- sessions side by side, each with its own

for my $version (1.2, 1.3) {
    for my $sessions ('tickets', 'ids', 'once') {
        my $name = "side by side $version $sessions";
        my $context = $tls->context(cert => $cert{server}, version => $version,
            sessions => $sessions);
        my @all = map {
            [$_, session($legs, $_, "$name $_", $version, $sessions,
                context => $context)]
        } 'plain', 'explicit', 'implicit', 'plain';

        for my $how (@kinds, reverse @kinds) {
            my $resumed = join ' ', map {
                my ($kind, $c, $s, @serve) = @$_;
                resumed($legs, $c, $s, $name, $kind, @$how, @serve);
            } @all;

            is($resumed, '1 1 1 1', "$name resumed");
        }
    }
}

# ---- one control connection after the other, which resume each other as in
# any nginx: data resumes the last

for my $version (1.2, 1.3) {
    for my $sessions ('tickets', 'ids', 'once') {
        my $context = $tls->context(cert => $cert{server}, version => $version,
            sessions => $sessions);
        my @serve = (serve => { context => $context });

        for my $i (1 .. 3) {
            my $name = "$version $sessions, after another $i";
            my ($c, $s) = $legs->ready('plain', $name, @serve);
            all_resumed($legs, $c, $s, $name, 'plain', @serve);
            is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
            $s->finish;
            is($c->ended, 'eof', "$name end");
        }
    }
}

# ---- with transfers in clear, cut and refused ones between

for my $version (1.2, 1.3) {
    my $name = "between $version";
    my ($c, $s, @serve) = session($legs, 'explicit', $name, $version, 'tickets');

    all_resumed($legs, $c, $s, $name, 'explicit', @serve);
    $legs->protect($c, $s, "$name C", '200 clear', 'C');
    $legs->transfers($c, $s, "$name C", 0, 0);
    $legs->protect($c, $s, "$name P", '200 private');
    all_resumed($legs, $c, $s, "$name again", 'explicit', @serve);

    for my $who ('client', 'server') {
        my $listener = $t->server;
        my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
        my $far = $tls->accept($listener, %{ { @serve }->{serve} });

        ok($far->is_resumed, "$name cut by $who");
        ok($tls->secure($near), "$name cut by $who, client");
        ($who eq 'client' ? $near : $far)->reset;
        is(($who eq 'client' ? $far : $near)->ended, 'reset', "$name cut by $who");
    }

    # 550 to RETR, the server never handshakes

    my $listener = $t->server;
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    my $far = $listener->accept;
    is($t->dialog($c, $s, 'RETR f' => '550 none'), '', "$name 550");
    $far->close;
    $near->ended;

    all_resumed($legs, $c, $s, "$name after all", 'explicit', @serve);
}

# ---- many small ones, and empty ones

for my $case ([1.3, 'once'], [1.3, 'ids'], [1.2, 'tickets']) {
    my ($version, $sessions) = @$case;
    my $name = "many $version $sessions";
    my ($c, $s, @serve) = session($legs, 'explicit', $name, $version, $sessions);

    for my $i (1 .. 40) {
        is(resumed($legs, $c, $s, "$name $i", 'explicit', @{ $kinds[$i % 4] },
            @serve, bytes => 'x' x ($i % 3)), 1, "$name $i");
    }
}

# ---- workers

for my $version (1.2, 1.3) {
    for my $from ($t->workers) {
        my $name = "workers $version";
        my ($c, $s, @serve) = $t->only_worker($from, sub {
            session($legs, 'explicit', $name, $version, 'once') });

        for my $round (1 .. 2) {
            for my $to (reverse $t->workers) {
                my $where = $to == $from ? 'same' : 'other';
                is(resumed($legs, $c, $s, "$name $where", 'explicit', @$_, @serve,
                    worker => $to), 1, "$name $where $round") for @kinds;
            }
        }
    }
}

# ---- control in TLS 1.2 alone, data in both

{
    my ($c, $s, @serve) = session($legs{implicit}, 'plain', 'older', undef,
        'tickets', port => 6);

    is($s->version, 'TLSv1.2', 'older control');

    for my $how (@kinds) {
        my ($near, $far) = $legs{implicit}->transfer($c, $s, 'older', 0, 1, @$how,
            @serve);
        is($far->version . ' ' . $far->is_resumed, 'TLSv1.2 1', 'older data');
    }
}

# ---- verification holds for those that are not resumed, too

for my $version (1.2, 1.3) {
    my $name = "checked $version";
    my ($c, $s, @serve) = session($legs{implicit}, 'explicit', $name, $version,
        'tickets', port => 5);

    is($s->server_name, 'server', "$name SNI");
    all_resumed($legs{implicit}, $c, $s, $name, 'explicit', @serve);

    for my $who ('stranger', 'client') {
        $legs{implicit}->fails($c, $s, "$name $who $_", 1, $cert{$who}, $_)
            for 'RETR', 'STOR';
    }

    # the server has forgotten: its certificate is looked at, and is good
    my $other = $tls->context(cert => $cert{server}, version => $version);
    is(resumed($legs{implicit}, $c, $s, "$name forgotten", 'explicit', @{ $kinds[0] },
        serve => { context => $other }), 0, "$name forgotten");

    # a session that does not come of the control connection's is not kept
    is(resumed($legs{implicit}, $c, $s, "$name not kept", 'explicit', @{ $kinds[1] },
        serve => { context => $other }), 0, "$name not kept");
    all_resumed($legs{implicit}, $c, $s, "$name again", 'explicit', @serve);
}

# ---- no room in the zone: it goes without

my $tiny = $legs{implicit};

# Sessions in that worker, until one does not resume: all of them, and that one.
sub fill_zone {
    my ($worker, $name) = @_;

    my $context = $tls->context(cert => $cert{server}, version => 1.3);
    my @all;

    for my $i (1 .. 60) {
        my ($c, $s, @serve) = $t->only_worker($worker, sub {
            session($tiny, 'plain', "$name $i", undef, undef, port => 7,
                context => $context) });

        # it is kept when a port is reserved
        my $resumed = resumed($tiny, $c, $s, "$name $i", 'plain',
            @{ $kinds[$i % 4] }, @serve);

        return (\@all, [$c, $s, @serve]) if !$resumed;

        push @all, [$c, $s, @serve];
    }

    die "the zone is never full\n";
}

sub tiny_resumes {
    my ($session, $resumed, $name) = @_;

    my ($c, $s, @serve) = @$session;

    is(resumed($tiny, $c, $s, $name, 'plain', @$_, @serve), $resumed, $name)
        for @kinds;

    return;
}

my ($worker) = $t->workers;

{
    my ($all, $last) = fill_zone($worker, 'tiny');

    cmp_ok(scalar @$all, '>', 3, 'some have room');
    tiny_resumes($all->[0], 1, 'the first keeps its own');
    tiny_resumes($last, 0, 'the last goes without');

    # room again when others are gone
    for (@$all) {
        $_->[0]->close;
        $_->[1]->rest;
    }

    tiny_resumes($last, 1, 'room again');
}

# a worker that is killed leaves nothing

{
    my ($all, $last) = fill_zone($worker, 'killed');
    my $new = $t->kill_worker($worker);

    ok($_->[0]->ended, 'killed ends') for @$all, $last;

    my ($others) = fill_zone($new, 'after the killed');
    is(scalar @$others, scalar @$all, 'all of its room again');
}

# ---- reload

for my $version (1.2, 1.3) {
    my $name = "reload $version";
    my ($c, $s, @serve) = session($legs, 'explicit', $name, $version, 'once');

    # a reservation that waits, and a session that has had no transfer
    my $listener = $t->server;
    my $reply = $t->passive($c, $s, $listener);
    my ($c2, $s2, @serve2) = session($legs, 'plain', "$name idle", $version, 'once');

    my @new = $t->reload(conf());

    my $near = $c->data($c->passive_port($reply));
    my $far = $tls->accept($listener, %{ { @serve }->{serve} }, mute => 1);
    ok($tls->secure($near), "$name waiting");
    ok($far->is_resumed, "$name waiting resumed");
    $far->send('data');
    $far->finish;
    is($near->rest, 'data', "$name waiting data");

    all_resumed($legs, $c, $s, $name, 'explicit', @serve);
    all_resumed($legs, $c2, $s2, "$name idle", 'plain', @serve2);
    is(resumed($legs, $c, $s, "$name worker", 'explicit', @{ $kinds[0] }, @serve,
        worker => $_), 1, "$name new worker") for @new;
}

$t->done(allow => qr/worker process \d+ exited on signal 9/);
