#!/usr/bin/perl

# Clients that use each TLS 1.3 session once, as those with OpenSSL do: the
# control connection gives them another one with each data port.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
open my $random, '<', '/dev/urandom' or die "no /dev/urandom: $!\n";
read $random, my $key, 80;
$t->write_file('ticket.key', $key);

# what each nginx resumes with, see ftp_tls_reuse.t
my @settings = (
    ['cache', 'ssl_session_tickets off;'],
    ['key', "ssl_session_ticket_key $dir/ticket.key;"],
    $t->at_least('1.23.2') ? ['shared', ''] : (),
);

my ($n, $servers, @all) = (0, '');

for my $setting (@settings) {
    for my $demand ('optional', 'required') {
        my ($name, $more) = ("$setting->[0]-$demand", $setting->[1]);
        my $from = 16 + 4 * $n;
        my $ctrl = "ftp_ctrl zone=$name:1m min_port=${\$t->port($from)} "
            . "max_port=${\$t->port($from + 7)}; ftp_client_mode any; "
            . "ftp_data_tls_reuse $demand; proxy_pass ${\$server->at};";
        # the smallest that there is
        my $both = "$more ssl_session_cache shared:tls-$name:32k;";

        push @all, [$name, $n];
        $servers .= <<"EOF";
    server { listen 127.0.0.1:${\$t->port($n)}; $ctrl $both ftp_auth_tls on; }
    server { listen 127.0.0.1:${\$t->port($n + 1)} ssl; $ctrl $both }
    server {
        listen 127.0.0.1:${\$t->range($from, $from + 7)};
        ftp_data zone=$name;
        access_log logs/data.log data;
        $both
    }
EOF
        $n += 2;
    }
}

# one with little room toward the client
my $narrow = $n;
$servers .= "    server { listen 127.0.0.1:${\$t->port($narrow)} sndbuf=4k; "
    . "ftp_ctrl zone=cache-required; ftp_data_tls_reuse required; ftp_auth_tls on; "
    . "$settings[0][1] ssl_session_cache shared:tls-cache-required:32k; "
    . "proxy_pass ${\$server->at}; }\n";

# one whose sessions are soon forgotten
my $short = $n + 1;
$servers .= "    server { listen 127.0.0.1:${\$t->port($short)}; "
    . "ftp_ctrl zone=cache-optional; ftp_auth_tls on; ssl_session_timeout 1s; "
    . "$settings[0][1] ssl_session_cache shared:tls-cache-optional:32k; "
    . "proxy_pass ${\$server->at}; }\n";

$t->run(<<"EOF");
    $certificates
    log_format data '\$ssl_session_reused \$ssl_protocol \$ftp_data_status';
$servers
EOF

# What tells a session from another one.
sub secret { Net::SSLeay::SESSION_get_master_key($_[0]) }

# The last session of a control connection, if it was not used.
sub unused {
    my ($c) = @_;

    my $session = $c->tls_session;

    return $c->{used}{secret($session)}++ ? undef : $session;
}

# The ends of a data connection in that mode, the client's with TLS ready.
#   worker => worker that takes it
sub connection {
    my ($c, $s, $mode, %arg) = @_;

    my ($near, $far);
    my $worker = delete $arg{worker};

    if ($mode =~ /RT$/) {
        ($near, $far) = $t->active_data($c, $s, $mode);

    } else {
        my $listener = $server->passive;
        my $port = $c->passive_port($t->passive($c, $s, $listener, $mode));

        $near = !$worker ? $c->data($port) : $t->only_worker($worker, sub {
            my $near = $c->data($port);
            $t->worker_of($near);
            return $near;
        });
        $far = $listener->accept;
    }

    $tls->prepare($near, %arg, session => unused($c));

    return ($near, $far);
}

my $lines = 0;

# A transfer; what its line in the log says.
sub transfer {
    my ($c, $s, $mode, $verb, %arg) = @_;

    my ($near, $far) = connection($c, $s, $mode, %arg);
    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);

    is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$verb 150");
    ok($near->handshake, "$mode $verb handshake");
    $from->send('data');
    $from->finish;
    is($to->rest . " $to->{end}", 'data eof',
        "$mode $verb bytes");

    # nothing lay unread: a client that only sends would lose its tail
    is($near->ended, 'eof', "$mode $verb end");
    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$mode $verb 226");

    return ($t->wait_access(++$lines, 'logs/data.log'))[-1];
}

for (@all) {
    my ($setting, $port) = @$_;

    for my $way ('explicit', 'implicit') {
        my $name = "$setting $way";
        my %arg = (version => 1.3, port => $t->port($port + ($way eq 'implicit')));
        my ($c, $s) = $tls->$way($t, $server, %arg);

        is($c->protect, '', "$name PROT P");

        for my $mode ('PASV', 'EPSV', 'PORT', 'EPRT') {
            for my $verb ('RETR', 'STOR', 'LIST') {
                is(transfer($c, $s, $mode, $verb, %arg), 'r TLSv1.3 complete',
                    "$name $mode $verb resumed");
            }
        }

        # ports that nobody connects to

        for my $i (1 .. 3) {
            ok($t->passive($c, $s, $server->passive, 'EPSV'), "$name unused $i");
        }

        is(transfer($c, $s, 'EPSV', 'RETR', %arg), 'r TLSv1.3 complete',
            "$name behind unused");

        # where data is in clear nobody needs one

        my $last = secret($c->tls_session);
        $t->passive($c, $s, $server->passive, 'EPSV');
        isnt(secret($c->tls_session), $last, "$name PROT P, another session");

        is($c->protect('C'), '', "$name PROT C");
        $last = secret($c->tls_session);
        $t->passive($c, $s, $server->passive, 'EPSV');
        is(secret($c->tls_session), $last, "$name PROT C, the same session");
    }
}

# ---- in each worker

for my $from ($t->workers) {
    my %arg = (version => 1.3);
    my ($c, $s) = $t->only_worker($from, sub {
        my @ends = $tls->explicit($t, $server, %arg);
        is($ends[0]->protect, '', 'PROT P');
        return @ends;
    });

    for my $to ($t->workers, $t->workers) {
        my $name = $from == $to ? 'the same worker' : 'another worker';

        is(transfer($c, $s, 'EPSV', 'STOR', %arg, worker => $to),
            'r TLSv1.3 complete', $name);
    }
}

# ---- no room for tickets: whatever comes is in order, and more is to come

for my $count (1, 100) {
    my ($c, $s) = $t->session($server, port => $t->port($narrow), rcvbuf => 4096);
    my $name = "$count ports, no room";

    $tls->auth($c, version => 1.3);
    is($c->protect, '', "$name, PROT P");

    $c->send("EPSV\r\n" x $count);
    is($s->bytes(6 * $count), "EPSV\r\n" x $count, "$name, commands");
    $s->send(('229 it is (|||' . $server->port . "|)\r\n") x $count);

    my @wrong = grep { !/\A229 .*\(\|\|\|\d+\|\)\r\n\z/ } map { $c->line } 1 .. $count;
    is("@wrong", '', "$name, replies");

    for my $verb ('RETR', 'STOR') {
        is(transfer($c, $s, 'EPSV', $verb, version => 1.3), 'r TLSv1.3 complete',
            "$name, $verb resumed");
    }
}

# ---- none is known longer than what the login has shown

{
    my ($c, $s) = $tls->explicit($t, $server, version => 1.3, port => $t->port($short));
    my $listener = $server->passive;

    is($c->protect, '', 'short, PROT P');
    ok($t->wait_for('a session that is too old', sub {
        my $last = secret($c->tls_session);
        $t->passive($c, $s, $listener, 'EPSV');
        return secret($c->tls_session) eq $last;
    }), 'short, no more tickets');
}

# ---- what others have in the cache stays there

for (@all) {
    my ($setting, $port) = @$_;

    for my $version (1.2, 1.3) {
        my $name = "$setting $version";
        my %arg = (version => $version, port => $t->port($port));
        my ($c, $s) = $tls->explicit($t, $server, %arg);
        is($c->protect, '', "$name PROT P");
        my $session = $c->tls_session;

        my ($c2, $s2) = $tls->explicit($t, $server, version => 1.3,
            port => $t->port($port));
        is($c2->protect, '', "$name PROT P of another");
        is(scalar(grep { !$t->passive($c2, $s2, $server->passive, 'EPSV') } 1 .. 300),
            0, "$name many ports");

        my ($near, $far) = $tls->tls_data($t, $c, $s, 'EPSV', %arg,
            session => $session);
        $far->send('x');
        is($near->bytes(1), 'x', "$name data");
        is($near->is_resumed, 1, "$name, the first session still resumes");
        $far->close;
        $lines++;
        $near->ended;
        $t->wait_access($lines, 'logs/data.log');
    }
}

$t->done;
