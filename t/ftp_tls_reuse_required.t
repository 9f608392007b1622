#!/usr/bin/perl

# ftp_data_tls_reuse required: a data connection that does not resume the TLS
# session of its own control connection is nobody's.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my ($server, $other) = map { $t->server } 1, 2;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my $cert = [map { "$dir/client.$_" } 'crt', 'key'];

open my $random, '<', '/dev/urandom' or die "no /dev/urandom: $!\n";
read $random, my $key, 80;
$t->write_file('ticket.key', $key);

# what each nginx resumes with, see ftp_tls_reuse.t
my @settings = (
    ['cache', 'ssl_session_tickets off;'],
    ['key', "ssl_session_ticket_key $dir/ticket.key;"],
    $t->at_least('1.23.2') ? ['shared', ''] : (),
);

my $optional = @settings * 2;
my $stranger = $optional + 1;
my ($n, $servers) = (0, '');

sub pair {
    my ($name, $more, $listen) = @_;

    my $from = 16 + 8 * ($n >> 1);
    my $ctrl = "ftp_ctrl zone=$name:1m min_port=${\$t->port($from)} "
        . "max_port=${\$t->port($from + 7)}; proxy_pass ${\$server->at};";
    my $both = "$more ssl_session_cache shared:tls-$name:1m;";

    $listen = $listen ? " $listen" : '';

    return <<"END";
    server { listen 127.0.0.1:${\$t->port($n++)}; $ctrl $both ftp_auth_tls on; }
    server { listen 127.0.0.1:${\$t->port($n++)} ssl; $ctrl $both }
    server {
        listen 127.0.0.1:${\$t->range($from, $from + 7)}$listen;
        ftp_data zone=$name;
        access_log logs/data.log data;
        $both
        # the control server's setting counts
        ftp_data_tls_reuse ${\($name eq 'optional' ? 'required' : 'optional')};
    }
END
}

for my $setting (@settings) {
    my ($name, $more) = @$setting;

    $servers .= pair($name, $more, $name eq 'key' && 'ssl');
}

# without the requirement, with the same cache as another that has nothing to do
# with FTP; and client certificates
my $last = pair('optional', 'ssl_session_tickets off;');
my $verified = $n;
$last =~ s/(ftp_auth_tls on;| ssl;)/$1 ftp_data_tls_reuse optional;/g;
$servers .= $last . pair('verified', "ssl_session_tickets off; ssl_verify_client on; "
    . "ssl_client_certificate $dir/ca.crt;")
    . <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port($n)} ssl;
        ssl_session_cache shared:tls-cache:1m;
        ssl_session_tickets off;
        proxy_pass ${\$other->at};
    }
EOF
$stranger = $n;

sub conf {
    return <<"EOF";
    $certificates
    ftp_data_tls_reuse required;
    log_format data '\$ssl_session_reused \$ftp_data_status';
$servers
EOF
}

$t->run(conf());

# A control session with private data, and its TLS session.
sub session {
    my ($way, $port, %arg) = @_;

    my ($c, $s) = $tls->$way($t, $server, port => $t->port($port), %arg);

    is($c->protect, '', 'PROT P');

    return ($c, $s, $c->tls_session);
}

# A transfer with that session; what became of it, and the session that the
# client then has.
sub transfer {
    my ($c, $s, $verb, $session, %arg) = @_;

    my $listener = $server->passive;
    my $port = $c->passive_port($t->passive($c, $s, $listener));
    my $worker = delete $arg{worker};
    my $near = !$worker ? $c->data($port) : $t->only_worker($worker, sub {
        my $near = $c->data($port);
        $t->worker_of($near);
        return $near;
    });
    my $far = $listener->accept;

    $tls->prepare($near, %arg, session => $session);
    is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$verb 150");

    my $before = $t->lines(qr/\[info\].*resume/);

    # what the server sends, and the client behind its handshake, goes nowhere
    $far->send('secret') if $verb eq 'RETR';
    my $done = $near->handshake;
    $near->send('secret') if $verb eq 'STOR' && $done;

    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);
    $from->finish if $from->socket && !$from->{end};

    my $got = $to->rest;
    my $end = "$got $to->{end}";

    if ($got eq 'secret') {
        is($from->ended, 'eof', "$verb other end");
        $s->send("226 done\r\n");

    } else {
        my $rest = $from->rest;
        $end .= " $rest$from->{end}";
        ok($t->wait_for('a line', sub {
            $t->lines(qr/\[info\].*resume/) > $before }), "$verb logged");
        $s->send("426 failed\r\n");
    }

    like($c->line, qr/^[24]26 /, "$verb reply");

    my $next = $done ? $near->tls_session : undef;
    $near->close;

    return ($end, $next);
}

my $taken = 'secret eof';
my $refused = qr/\A (?:reset|alert) reset\z|\A reset (?:reset|alert)\z/;

for my $i (0 .. $#settings) {
    my ($setting) = @{ $settings[$i] };

    for my $way ('explicit', 'implicit') {
        my $port = 2 * $i + ($way eq 'implicit');

        for my $version (1.2, 1.3) {
            my %arg = (version => $version);
            my $name = "$setting $way $version";

            my ($c, $s, $session) = session($way, $port, %arg);
            my ($c2, $s2, $session2) = session($way, $port, %arg);

            for my $verb ('RETR', 'STOR') {
                # its own, again and again, the first one and the newest

                my $newest = $session;

                for my $round (1 .. 3) {
                    my ($end) = transfer($c, $s, $verb, $session, %arg);
                    is($end, $taken, "$name $verb own $round");

                    ($end, $newest) = transfer($c, $s, $verb, $newest, %arg);
                    is($end, $taken, "$name $verb newest $round");
                }

                # none, and another's, both ways round

                my ($end, $fresh) = transfer($c, $s, $verb, undef, %arg);
                like($end, $refused, "$name $verb none");

                ($end) = transfer($c, $s, $verb, $session2, %arg);
                like($end, $refused, "$name $verb another's");
                ($end) = transfer($c2, $s2, $verb, $session, %arg);
                like($end, $refused, "$name $verb another's again");

                # what a refused connection got is worth nothing

                if ($fresh) {
                    ($end) = transfer($c, $s, $verb, $fresh, %arg);
                    like($end, $refused, "$name $verb that of the refused");
                } else {
                    pass("$name $verb nothing for the refused");
                }

                # the owners can go on

                ($end) = transfer($c, $s, $verb, $session, %arg);
                is($end, $taken, "$name $verb still");
                ($end) = transfer($c2, $s2, $verb, $session2, %arg);
                is($end, $taken, "$name $verb the other still");
            }

            # that of a control connection before this one

            $c->finish;
            $c->rest;
            $s->close;

            my ($c3, $s3, $session3) = session($way, $port, %arg,
                session => $session);
            my ($end) = transfer($c3, $s3, 'RETR', $session, %arg);
            like($end, $refused, "$name earlier") if !$c3->is_resumed;
            ($end) = transfer($c3, $s3, 'RETR', $session3, %arg);
            is($end, $taken, "$name now");

            # of the other kind of control connection

            my $wayward = $way eq 'explicit' ? 'implicit' : 'explicit';
            my ($c4, $s4, $session4) = session($wayward, $port ^ 1, %arg);
            ($end) = transfer($c3, $s3, 'STOR', $session4, %arg);
            like($end, $refused, "$name other kind");

            # data in clear is not concerned, unless the listener has ssl

            next if $setting eq 'key';

            is($c3->protect('C'), '', 'PROT C');
            my ($near, $far) = $t->data($c3, $s3);
            is($t->dialog($c3, $s3, 'RETR f' => '150 now'), '', 'clear 150');
            $far->send('clear');
            $far->finish;
            is($near->rest, 'clear', "$name in clear");
        }
    }
}

# each worker

for my $version (1.2, 1.3) {
    my %arg = (version => $version);

    for my $from ($t->workers) {
        my ($c, $s, $session) = $t->only_worker($from, sub {
            session('explicit', 0, %arg) });
        my ($c2, $s2, $session2) = $t->only_worker($from, sub {
            session('explicit', 0, %arg) });

        for my $to ($t->workers) {
            my $name = "$version " . ($from == $to ? 'same' : 'other') . ' worker';

            for my $verb ('RETR', 'STOR') {
                my ($end) = transfer($c, $s, $verb, $session, %arg, worker => $to);
                is($end, $taken, "$name $verb own");
                ($end) = transfer($c, $s, $verb, $session2, %arg, worker => $to);
                like($end, $refused, "$name $verb another's");
                ($end) = transfer($c, $s, $verb, undef, %arg, worker => $to);
                like($end, $refused, "$name $verb none");
            }
        }
    }
}

# a session of the same cache that has nothing to do with FTP

for my $version (1.2, 1.3) {
    my %arg = (version => $version);
    my $web = $tls->connect(port => $t->port($stranger));

    ok($tls->secure($web, %arg), "stranger $version");
    my $far = $other->accept;
    $far->send('x');
    is($web->bytes(1), 'x', "stranger $version has its session");

    my ($c, $s, $session) = session('explicit', 0, %arg);
    my ($end) = transfer($c, $s, 'RETR', $web->tls_session, %arg);
    like($end, $refused, "stranger $version refused");
    ($end) = transfer($c, $s, 'RETR', $session, %arg);
    is($end, $taken, "stranger $version, own");
}

# certificates of the client

for my $way ('explicit', 'implicit') {
    for my $version (1.2, 1.3) {
        my %arg = (version => $version, cert => $cert);
        my $port = $verified + ($way eq 'implicit');
        my $name = "certificate $way $version";
        my ($c, $s, $session) = session($way, $port, %arg);

        for my $verb ('RETR', 'STOR') {
            my ($end) = transfer($c, $s, $verb, $session, %arg);
            is($end, $taken, "$name $verb");
            ($end) = transfer($c, $s, $verb, undef, %arg);
            like($end, $refused, "$name $verb, none");
        }
    }
}

# optional, whatever the data server has

for my $way ('explicit', 'implicit') {
    for my $version (1.2, 1.3) {
        my %arg = (version => $version);
        my $port = $optional + ($way eq 'implicit');
        my $name = "optional $way $version";
        my ($c, $s, $session) = session($way, $port, %arg);
        my (undef, undef, $session2) = session($way, $port, %arg);

        for my $verb ('RETR', 'STOR') {
            for my $with ($session, undef, $session2) {
                my ($end) = transfer($c, $s, $verb, $with, %arg);
                is($end, $taken, "$name $verb");
            }
        }
    }
}

# over a reload

for my $version (1.2, 1.3) {
    my %arg = (version => $version);
    my @all = map { [session('explicit', 2 * $_, %arg)] } 0 .. $#settings;

    my @new = $t->reload(conf());

    for my $i (0 .. $#settings) {
        my ($c, $s, $session) = @{ $all[$i] };
        my $name = "reload $settings[$i][0] $version";
        my (undef, undef, $session2) = session('explicit', 2 * $i, %arg);

        for my $worker (@new) {
            my ($end) = transfer($c, $s, 'RETR', $session, %arg, worker => $worker);
            is($end, $taken, "$name own");
            ($end) = transfer($c, $s, 'RETR', $session2, %arg, worker => $worker);
            like($end, $refused, "$name another's");
        }
    }
}

$t->done;
