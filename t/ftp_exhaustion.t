#!/usr/bin/perl

# A range with no port left: 425 and a line that says what to widen; another
# client address has its own ports, and what comes back is given again.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $range = $t->range(10, 12);

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(12)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:$range;
        ftp_data zone=ftp;
    }
EOF

my $listener = $server->passive;
my (@sessions, %ports);

for (1 .. 3) {
    my ($c, $s) = $t->session($server);
    my $port = $c->passive_port($t->passive($c, $s, $listener));

    push @sessions, [$c, $s, $port];
    $ports{$port}++;
}

is(join(' ', sort keys %ports), join(' ', map { $t->port($_) } 10 .. 12),
    'every port once');

# no more

my ($c, $s) = $t->session($server);
like($t->passive($c, $s, $listener), qr/\A425 [^\r\n]+\r\n\z/, 'PASV 425');
like($t->passive($c, $s, $listener, 'EPSV'), qr/\A425 [^\r\n]+\r\n\z/,
    'EPSV 425');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'in step');
ok($t->wait_log(qr/\[error\].*no free port for 127\.0\.0\.1 in zone "ftp" \($range\): widen the range/),
    'logged');

# for another client there is

my ($other, $far) = $t->session($server, bind => '127.0.0.2');
my %other;

for (1 .. 20) {
    my $port = $other->passive_port($t->passive($other, $far, $listener));
    $other{$port}++;
}

is(scalar keys %other, 3, 'another address');

# the same session reuses its own

my ($first, $peer, $port) = @{ $sessions[0] };
my $again = $first->passive_port($t->passive($first, $peer, $listener));
ok($ports{$again}, 'PASV again');

# a taken reservation keeps its port until the data ends

my $near = $first->data($again);
my $data = $listener->accept;
like($t->passive($c, $s, $listener), qr/\A425 /, 'taken port');

$data->send('x');
$data->close;
is($near->rest, 'x', 'data');
$near->close;

my $reply;
$t->wait_for('the port to come back', sub {
    $reply = $t->passive($c, $s, $listener);
    return $reply !~ /\A425 /;
});
is($c->passive_port($reply), $again, 'port came back');

# and the end of a control connection gives one

$t->new_log(qr/released port $sessions[1][2]/, sub {
    $sessions[1][0]->close;
});
my ($late, $lpeer) = $t->session($server);
is($late->passive_port($t->passive($late, $lpeer, $listener)),
    $sessions[1][2], 'after control end');

$t->done;
