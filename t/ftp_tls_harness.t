#!/usr/bin/perl

# The harness of TLS against itself: client and fake server face to face, with
# each way of resuming, and through a plain stream proxy with AUTH.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new->plain;
my $server = $t->server;

$tls->certificates($t);

my $cert = [map { $t->dir . "/server.$_" } 'crt', 'key'];

# A connection with both handshakes done, in turns: client's end and server's.
sub meet {
    my ($client, $serve) = @_;

    my $near = $tls->prepare($tls->connect(port => $server->port), %$client);
    my $far = $tls->serve($server->accept, %$serve);
    my $until = time + $Test::Nginx::FtpConn::DEADLINE;

    for my $end (($near, $far) x 10) {
        $end->step and $end == $far and last;
    }

    # the client reads a session of TLS 1.3 together with the first bytes
    $far->send('x');
    is($near->bytes(1), 'x', 'first byte');
    is($near->is_resumed, $far->is_resumed, 'both agree');

    return ($near, $far);
}

# what should happen on the second and third connection with the first one's
# session, with that of the connection before, and with another's name
my %expected = (
    tickets => [1, 1, 1, 0],
    ids     => [1, 1, 1, 0],
    once    => [1, 0, 1, 0],
    never   => [0, 0, 0, 0],
);

for my $version (1.2, 1.3) {
    for my $sessions (sort keys %expected) {
        my $name = "$sessions $version";
        my $context = $tls->context(cert => $cert, version => $version,
            sessions => $sessions);
        my %serve = (context => $context, own => 'mine');

        my ($near, $far) = meet({}, \%serve);
        is($near->version, "TLSv$version", "$name version");
        ok(!$near->is_resumed, "$name first");

        my $first = $near->tls_session;
        my @got;

        for (1 .. 2) {
            ($near, $far) = meet({ session => $first }, \%serve);
            push @got, $near->is_resumed;
        }

        ($near, $far) = meet({}, \%serve);
        for (1 .. 3) {
            ($near, $far) = meet({ session => $near->tls_session }, \%serve);
        }
        push @got, $near->is_resumed;

        my $last = $near->tls_session;
        ($near, $far) = meet({ session => $last },
            { context => $context, own => 'yours' });
        push @got, $near->is_resumed;

        is("@got", "@{ $expected{$sessions} }", "$name resumed");
    }
}

# AUTH and the handshake behind it, without a proxy

my $c = $tls->connect(port => $server->port);
my $s = $server->accept;

$c->command('AUTH TLS');
$tls->agree($s, greeting => "120 wait\r\n220 ready\r\n");
is($c->line . $c->line, "120 wait\r\n220 ready\r\n", 'greeting');
is($c->line, "234 go on\r\n", 'consent');

$c = $tls->connect(port => $server->port);
$s = $server->accept;
$c->send("AUTH TLS\r\nUSER x\r\n");
ok(!eval { $tls->agree($s); 1 }, 'something behind AUTH');
like($@, qr/^no TLS|no AUTH TLS but/, 'is an error');

$t->done;
