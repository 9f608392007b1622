#!/usr/bin/perl

# Large transfers, 12 MiB, into a slow reader, both ways: every byte arrives.

use strict;
use warnings;

use Digest::SHA;
use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

use constant SIZE => 32 * 1024 * 1024 + 7;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my ($c, $s) = $t->session($server);

# upload

my $listener = $server->passive(rcvbuf => 4096);
my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
my $far = $listener->accept;
is($t->dialog($c, $s, 'STOR x' => '150 here'), '', 'upload begins');
slow('upload', $near, $far);
is($t->dialog($c, $s, NOOP => '226 done'), '', 'upload ends');
$near->close;

# download

$listener = $server->passive;
$near = $c->data($c->passive_port($t->passive($c, $s, $listener)),
    rcvbuf => 4096);
$far = $listener->accept;
is($t->dialog($c, $s, 'RETR x' => '150 here'), '', 'download begins');
slow('download', $far, $near);
is($t->dialog($c, $s, NOOP => '226 done'), '', 'download ends');

# the writer resets while much is under way: it looks cut

$listener = $server->passive(rcvbuf => 4096);
$near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
$far = $listener->accept;
1 while $near->write_some('x' x 65536);
$near->reset;
is(($far->rest, $far->{end})[1], 'reset', 'reset upload looks cut');

$t->done;

# Fills all buffers first, then reads in small pieces.
sub slow {
    my ($name, $from, $to) = @_;

    my ($sent, $got) = map { Digest::SHA->new(256) } 1, 2;
    my ($out, $in, $stalled, $chunk, $n) = (0, 0, 0, '', 0);
    my $until = time + 3 * $Test::Nginx::FtpConn::DEADLINE;

    while (!$to->{end} && time < $until) {
        if ($out < SIZE) {
            if (!length $chunk) {
                $chunk = join '', map { pack 'NN', $n + $_, 2654435761 * ($n + $_) % 4294967296 } 1 .. 8192;
                $n += 8192;
            }

            my $wrote = $from->write_some($chunk) // last;
            $sent->add(substr $chunk, 0, $wrote, '');
            $out += $wrote;

            if ($out >= SIZE) {
                # exactly so much: what is left of the chunk stays here
                $from->finish;
            }

            next if $wrote;
            $stalled = 1;
        }

        # nothing more fits: take a little
        $to->fill(time + 0.05, 3001);
        $got->add($to->{in});
        $in += length $to->{in};
        $to->{in} = '';
    }

    ok($stalled, "$name fills the buffers");
    is($in, $out, "$name length");
    is($got->hexdigest, $sent->hexdigest, "$name checksum");
    is($to->{end}, 'eof', "$name end");
}
