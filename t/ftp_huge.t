#!/usr/bin/perl

# A transfer beyond 2^32 bytes: all of it arrives and is counted.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new(seconds => 240);
my $server = $t->server;

$t->run(<<"EOF");
    log_format ftp '\$bytes_sent \$ftp_data_status';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        proxy_buffer_size 512k;
        access_log logs/access.log ftp;
    }
EOF

# valgrind would take minutes for what it can see in less
my $size = 2 ** ($ENV{TEST_NGINX_VALGRIND} ? 26 : 32) + 12345;

my ($c, $s) = $t->session($server);
my ($near, $far) = $t->data($c, $s);

my $chunk = 'x' x 4_194_304;
my ($out, $in) = (0, 0);
my $until = time + 200;

while (!$near->{end} && time < $until) {
    if ($out < $size) {
        my $left = $size - $out;
        my $n = $far->write_some($left < length $chunk
            ? substr($chunk, 0, $left) : $chunk) // last;
        $out += $n;
        $far->finish if $out == $size;
    }

    $near->fill(time + 0.01, 1_048_576);
    $in += length $near->{in};
    $near->{in} = '';
}

is($in, $size, 'bytes');
is($near->{end}, 'eof', 'end');
is(($t->wait_access(1))[0], "$size complete", 'counted');

$t->done;
