#!/usr/bin/perl

# A reload that changes the range: what lives goes on, new ports come from the
# new range.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(config(10, 20));

my $listener = $server->passive;
my ($c1, $s1) = $t->session($server);
my ($c2, $s2) = $t->session($server);
my ($c3, $s3) = $t->session($server);

my ($near, $far) = $t->data($c1, $s1);

# a port that the new range has too, and one that it has not

my ($common, $lost);

$t->wait_for('a common port', sub {
    $common = $c2->passive_port($t->passive($c2, $s2, $listener));
    return $common >= $t->port(15);
});

$t->wait_for('a lost port', sub {
    $lost = $c3->passive_port($t->passive($c3, $s3, $listener));
    return $lost < $t->port(15);
});

$t->reload(config(15, 30));

# the transfer

$far->send('x');
$near->send('y');
is($near->bytes(1) . $far->bytes(1), 'xy', 'old transfer');
$far->finish;
is($near->ended, 'eof', 'old transfer ends');

# the common port

$near = $c2->data($common);
$far = $listener->accept;
$far->send('common');
$far->finish;
is($near->rest, 'common', 'common port');

# nobody listens on the other any more

ok(!eval { $c3->data($lost) }, 'lost port');

# new sessions

my ($c4, $s4) = $t->session($server);
my %ports;

for (1 .. 60) {
    my $port = $c4->passive_port($t->passive($c4, $s4, $listener));
    $ports{$port}++;
}

is(scalar(grep { !$t->in_range($_, 15, 30) } keys %ports), 0, 'new range only');
cmp_ok(scalar(grep { $t->in_range($_, 21, 30) } keys %ports), '>', 0,
    'new ports');

($near, $far) = $t->data($c4, $s4);
$far->send('new');
$far->finish;
is($near->rest, 'new', 'new transfer');

# the zone grows: a table of its own, old sessions end as they can

$t->reload(config(15, 30, '2m'));

is($t->dialog($c4, $s4, NOOP => '200 ok'), '', 'new size');
my ($c5, $s5) = $t->session($server);
($near, $far) = $t->data($c5, $s5);
$far->send('bigger');
$far->finish;
is($near->rest, 'bigger', 'new size transfer');

$t->done;

sub config {
    my ($from, $to, $size) = @_;

    $size //= '1m';

    return <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:$size min_port=${\$t->port($from)} max_port=${\$t->port($to)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range($from, $to)};
        ftp_data zone=ftp;
    }
EOF
}
