#!/usr/bin/perl

# A client resumes the TLS session of its control connection on the data
# connection, with the settings that nginx needs for it.

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

# nginx before 1.23.2 has ticket keys of its own in each server
my %settings = (
    cache => 'ssl_session_tickets off;',
    key   => "ssl_session_ticket_key $dir/ticket.key;",
    $t->at_least('1.23.2') ? (shared => '') : (),
);

my ($n, $servers, @ports) = (0, '');

for my $kind (sort keys %settings) {
    my $from = 10 + 10 * $n;
    my ($explicit, $implicit) = (2 * $n, 2 * $n + 1);

    push @ports, [$kind, $explicit, 'explicit'], [$kind, $implicit, 'implicit'];
    my $ctrl = "ftp_ctrl zone=$kind:1m min_port=" . $t->port($from)
        . ' max_port=' . $t->port($from + 9) . ';';
    my $both = "$settings{$kind} ssl_session_cache shared:tls-$kind:1m;";

    $servers .= <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port($explicit)};
        $ctrl
        $both
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port($implicit)} ssl;
        $ctrl
        $both
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range($from, $from + 9)};
        $both
        ftp_data zone=$kind;
        access_log logs/data.log data;
    }
EOF
    $n++;
}

$t->run(<<"EOF");
    $certificates
    log_format data '\$ssl_session_reused \$ssl_protocol \$ftp_data_status';
$servers
EOF

my $lines = 0;

# Moves a few bytes each way over that session; whether it was resumed.
sub transfer {
    my ($c, $s, $session, %arg) = @_;

    my ($near, $far) = $tls->tls_data($t, $c, $s, 'EPSV', %arg,
        session => $session);

    $far->send('data');
    $far->finish;
    my $got = $near->rest . " $near->{end}";
    my $resumed = $near->is_resumed;

    $lines++;

    return ($got eq 'data eof' ? $resumed : $got,
        ($t->wait_access($lines, 'logs/data.log'))[-1]);
}

for (@ports) {
    my ($kind, $port, $way) = @$_;

    for my $version (1.2, 1.3) {
        my $name = "$kind $way $version";
        my %arg = (version => $version, port => $t->port($port));

        my ($c, $s) = $tls->$way($t, $server, %arg);

        # TLS 1.3 sends a session after the handshake
        is($c->protect, '', "$name PROT P");
        my $session = $c->tls_session;

        for my $i (1 .. 3) {
            my ($resumed, $line) = transfer($c, $s, $session, %arg);
            is($resumed, 1, "$name resumed $i");
            is($line, "r TLSv$version complete", "$name logged $i");
        }

        my ($resumed, $line) = transfer($c, $s, undef, %arg);
        is($resumed, 0, "$name new session");
        is($line, ". TLSv$version complete", "$name new session logged");
    }
}

$t->done;
