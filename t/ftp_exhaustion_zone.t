#!/usr/bin/perl

# A zone with no reservation left: 425 and a line that says to enlarge it.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

# the smallest zone that passes

my $size;

for my $kilobytes (map { 4 * $_ } 1 .. 64) {
    my ($passed) = $t->check(config("${kilobytes}k"));
    $size = "${kilobytes}k", last if $passed;
}

ok($size, 'smallest zone') or BAIL_OUT('no zone is large enough');
note($size);

$t->run(config($size), connections => 8192);

# a waiting reservation per session, from many addresses

my $listener = $server->passive;
my (@sessions, $refused);

for my $i (0 .. 3000) {
    my $addr = sprintf '127.0.%d.%d', 1 + $i / 800, 1 + $i % 200;

    my ($c, $s) = $t->session($server, bind => $addr);
    my $reply = $t->passive($c, $s, $listener);

    if ($reply =~ /\A425 /) {
        $refused = $addr;
        last;
    }

    push @sessions, [$c, $s, $c->passive_port($reply)];
}

ok($refused, 'refused at last');
cmp_ok(scalar @sessions, '>=', 16, 'a sane number before');
note(scalar @sessions, ' reservations');
ok($t->wait_log(qr/\[error\].*no free reservation in zone "ftp": increase its size/),
    'logged');

# one given back is one to give

my ($c, $s, $port) = @{ pop @sessions };
$c->close;
$t->wait_log(qr/released port $port/);

($c, $s) = $t->session($server, bind => $refused);
my $reply = $t->passive($c, $s, $listener);
like($reply, qr/\A227 /, 'one came back');

my $near = $c->data($c->passive_port($reply));
my $far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'and works');

# the older ones still work

@sessions = @sessions[0 .. 9];

for my $session (@sessions) {
    my ($c, $s, $port) = @$session;
    my $near = $c->data($port);
    my $far = $listener->accept;
    $far->send($c->local_addr);
    $far->finish;
    $session = $near->rest eq $c->local_addr;
}

is(scalar(grep { $_ } @sessions), 10, 'older ones');

$t->done;

sub config {
    my ($size) = @_;

    return <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port(0)} backlog=4096;
        ftp_ctrl zone=ftp:$size min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF
}
