#!/usr/bin/perl

# TLS across workers: control and data in different ones, and a worker that is
# killed in the middle of handshakes leaves no reservation.

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

$t->run(<<"EOF");
    $certificates
    ssl_session_cache shared:tls:1m;
    ssl_session_tickets off;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(13)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 13)};
        ftp_data zone=ftp;
    }
EOF

my ($one, $two) = $t->workers;

# A data connection that worker has accepted, its handshake not begun.
sub data_in {
    my ($worker, $c, $s, %arg) = @_;

    my $listener = $server->passive;
    my $port = $c->passive_port($t->passive($c, $s, $listener));
    my $near = $t->only_worker($worker, sub {
        my $near = $c->data($port);
        $t->worker_of($near);
        return $near;
    });

    $tls->prepare($near, %arg);

    return ($near, $listener->accept);
}

for my $version (1.2, 1.3) {
    my %arg = (version => $version);
    my ($c, $s) = $t->only_worker($one, sub { $tls->explicit($t, $server, %arg) });
    is($c->protect, '', "PROT P $version");
    is($t->worker_of($c), $one, "control $version");

    my $session = $c->tls_session;

    for my $worker ($one, $two) {
        for my $verb ('RETR', 'STOR') {
            my $name = "$version $verb " . ($worker == $one ? 'same' : 'other');
            my ($near, $far) = data_in($worker, $c, $s, %arg, session => $session);

            is($t->dialog($c, $s, "$verb f" => '150 now'), '', "$name 150");
            ok($near->handshake, "$name handshake");

            my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);
            my $bytes = "$name " x 10_000;

            $from->send($bytes);
            $from->finish;
            ok($to->rest eq $bytes, "$name bytes");
            is($to->{end}, 'eof', "$name end");
            ok($near->is_resumed, "$name resumed");
        }
    }

    $c->close;
    is($s->rest, '', "control is over $version");
}

# all four ports in one worker: a handshake not begun, one begun, one done, and
# a reservation that waits for its connection; beside them a control handshake

my ($c, $s) = $t->only_worker($one, sub { $tls->explicit($t, $server) });
my ($c2, $s2) = $t->only_worker($two, sub { $tls->explicit($t, $server) });
is($_->protect, '', 'PROT P') for $c, $c2;

my ($near, $far) = data_in($two, $c, $s);
my ($begun, $begun_far) = data_in($two, $c, $s);
$begun->send_raw(substr $begun->hello, 0, 50);
my ($done, $done_far) = data_in($two, $c, $s);
ok($done->handshake, 'handshake done');
like($t->passive($c2, $s2, $server->passive), qr/^227 /, 'one waits');
# a session may have a port again that its own connection uses, others may not
my ($other, $other_s) = $t->only_worker($one, sub { $t->session($server) });
like($t->passive($other, $other_s, $server->passive), qr/^425 /,
    'no port is left');

my ($c3, $s3) = $t->only_worker($two, sub { $t->session($server) });
$c3->command('AUTH TLS');
like($c3->line, qr/^234 /, 'control handshake');
$tls->prepare($c3);
$c3->send_raw(substr $c3->hello, 0, 50);
$c3->taken;

ok($t->kill_worker($two), 'killed');

for (['not begun', $near, $far], ['begun', $begun, $begun_far],
    ['done', $done, $done_far])
{
    my ($name, @ends) = @$_;

    delete $ends[0]{tls};
    is($_->ended =~ s/ after .*//r, 'reset', "$name") for @ends;
}

delete $c3->{tls};
ok($c3->ended, 'control handshake ends');
ok($s3->ended, "control handshake's server");

# four again, all in the worker that lives

my @ports;

for my $i (1 .. 3) {
    my ($c, $s) = $t->only_worker($one, sub { $tls->explicit($t, $server) });
    is($c->protect, '', "again PROT P $i");
    my ($near, $far) = data_in($one, $c, $s);
    ok($near->handshake, "again $i");
    push @ports, [$near, $far, $c, $s];
}

like($t->passive($other, $other_s, $server->passive), qr/^227 /,
    'again the last');

for (@ports) {
    my ($near, $far) = @$_;

    $far->send('data');
    $far->finish;
    is($near->rest, 'data', 'bytes again');
    is($near->{end}, 'eof', 'end again');
}

# a killed control worker in the middle of its handshake

my ($new) = grep { $_ != $one } $t->workers;
($c, $s) = $t->only_worker($new, sub { $t->session($server) });
my $listener = $server->passive;
$c->send("PASV\r\nAUTH TLS\r\n");
is($s->line, "PASV\r\n", 'PASV');
$s->send("227 ok (${\$listener->hostport})\r\n");
like($c->line, qr/^227 /, 'reserved');
like($c->line, qr/^234 /, 'handshake');
ok($t->kill_worker($new), 'killed again');
ok($c->ended, 'control ends');

my @all = map {
    my ($c, $s) = $tls->explicit($t, $server);
    [$t->passive($c, $s, $listener), $c, $s];
} 1 .. 3;

is(scalar(grep { $_->[0] =~ /^227 / } @all), 3, 'three and one are free');

# a reload in the middle of handshakes: they go on in the old workers

my (undef, $cr, $sr) = @{ $all[0] };
is($cr->protect, '', 'PROT P before a reload');
my $before = $server->passive;
my $reply = $t->passive($cr, $sr, $before);
my $nr = $tls->prepare($cr->data($cr->passive_port($reply)));
my $fr = $before->accept;
$nr->send_raw(substr my $hello = $nr->hello, 0, 60);
my ($ca, $sa) = $t->session($server);
$ca->command('AUTH TLS');
like($ca->line, qr/^234 /, '234 before a reload');

$t->reload;

$nr->send_raw(substr $hello, 60);
ok($nr->handshake, 'data handshake after a reload');
$fr->send('data');
$fr->finish;
is($nr->rest, 'data', 'data after a reload');
is($nr->{end}, 'eof', 'end after a reload');
ok($tls->secure($ca), 'control handshake after a reload');
is($t->dialog($ca, $sa, NOOP => '200 ok'), '', 'control after a reload');

$t->done(allow => qr/worker process \d+ exited on signal 9/);
