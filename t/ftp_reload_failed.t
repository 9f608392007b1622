#!/usr/bin/perl

# Reloads that fail half-way, and workers that are started again afterwards:
# the configuration in force stays whole, the filter included.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = Test::Nginx::FtpTls->certificates($t);

sub servers {
    my ($more, $listen, $head) = @_;

    $listen //= '';
    $head //= '';

    return <<"EOF";
    $head
    server {
        listen 127.0.0.1:${\$t->port(0)}$listen;
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
        $more
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF
}

# A session whose data goes by a port of the range.
sub through {
    my ($name) = @_;

    my ($c, $s) = $t->session($server);
    my $listener = $server->passive;

    my $port = $c->passive_port($t->passive($c, $s, $listener));
    ok($port >= $t->port(10) && $port <= $t->port(20), "$name port");

    my $near = $c->data($port);
    my $far = $listener->accept;
    $far->send('whole');
    $far->finish;
    is($near->rest, 'whole', "$name data");

    $_->close for $near, $far, $c, $s;

    return;
}

$t->run(servers(''), workers => 1);
through('first');

# by our own check, by the ssl module's where it comes first, by a directive,
# by another module; and twice in a row

my @broken = (
    ['our check', servers('ftp_auth_tls on;')],
    ['ssl module', servers('', ' ssl')],
    ['directive', servers('nonsense on;')],
    ['upstream module', servers('', '', 'upstream none { }')],
    ['our check again', servers('ftp_data_timeout 0;')],
);

for my $case (@broken) {
    my ($name, $stream) = @$case;

    my $before = () = $t->lines(qr/\[emerg\]/);
    $t->write_file('nginx.conf', $t->conf($stream, workers => 1));
    kill HUP => $t->{master};
    ok($t->wait_for('the reload to fail', sub {
        my $now = () = $t->lines(qr/\[emerg\]/);
        return $now > $before;
    }), "$name fails");

    through("$name, same worker");
    $t->kill_worker($t->workers);
    through("$name, next worker");
}

# and one that does not

$t->reload(servers('ftp_auth_tls on;', '', $certificates), workers => 1);
through('reloaded');

my ($worker) = grep { !$t->leaving($_) } $t->workers;
$t->kill_worker($worker);
through('reloaded, next worker');

$t->done(allow => qr/\[emerg\]|exited on signal 9/);
