#!/usr/bin/perl

# nginx-conf/plain.conf as it is, but for addresses, ports and paths: listing,
# upload and download, each with PASV and EPSV, over IPv4 and IPv6.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my ($first, $last) = map { $t->port($_) } 4, 63;

open my $fh, '<', $t->root . '/nginx-conf/plain.conf' or die "no example: $!\n";
my $conf = do { local $/; <$fh> };
close $fh;

# each of these must be in it, or another file is tested than admins read

replaced('modules', qr/^load_module\s+\S+\n?.*$/m, '', 2);
replaced('user', qr/^user\s+\S+;/m, $> == 0 ? 'user www-data;' : '', 1);
replaced('workers', qr/^worker_processes\s+auto;/m, 'worker_processes 2;', 1);
replaced('pid', qr/^pid\s+\S+;/m, 'pid nginx.pid;', 1);
replaced('error_log', qr{/var/log/nginx/error\.log}, 'logs/error.log', 1);
replaced('access_log', qr{/var/log/nginx/ftp\.log}, 'logs/access.log', 1);
replaced('listen', qr/(?<=\s)21;/, "127.0.0.1:${\$t->port(0)};", 1);
replaced('listen IPv6', qr/\[::\]:21;/, "[::1]:${\$t->port(0)};", 1);
replaced('range', qr/(?<=\s)10000-10099;/, "127.0.0.1:$first-$last;", 1);
replaced('range IPv6', qr/\[::\]:10000-10099;/, "[::1]:$first-$last;", 1);
replaced('min_port', qr/min_port=10000/, "min_port=$first", 1);
replaced('max_port', qr/max_port=10099/, "max_port=$last", 1);
replaced('proxy_pass', qr/192\.0\.2\.91:21/, $server->at, 1);

$t->run(undef, whole => $t->globals . "daemon off;\n$conf");

my $bytes = join('', map { chr } 0 .. 255) x 4000;

for my $addr ('127.0.0.1', '::1') {
    my @commands = $addr =~ /:/ ? ('EPSV') : ('PASV', 'EPSV');

    my ($c, $s) = $t->session($server, addr => $addr);
    is($t->dialog($c, $s, 'USER joe' => '331 who', 'PASS x' => '230 in',
        'TYPE I' => '200 binary'), '', "$addr login");

    for my $command (@commands) {
        my $name = "$addr $command";

        download("$name listing", $c, $s, $command, 'LIST', "-rw 1 a\r\n");
        download("$name download", $c, $s, $command, 'RETR a', $bytes);
        download("$name empty", $c, $s, $command, 'RETR b', '');
        upload("$name upload", $c, $s, $command, 'STOR c', $bytes);
    }

    is($t->dialog($c, $s, QUIT => '221 bye'), '', "$addr quit");
    $s->close;
    is($c->ended, 'eof', "$addr end");
}

# one line for each transfer: who moved which file, how many bytes, how it ended

$t->wait_access(12);
my $log = $t->read_file('logs/access.log');
my $length = length $bytes;
like($log, qr/ 127\.0\.0\.1 \S+ joe RETR "a" $length\/0 [\d.]+ complete$/m, 'download logged');
like($log, qr/ ::1 \S+ joe STOR "c" 0\/$length [\d.]+ complete$/m, 'upload logged');

$t->done;

sub replaced {
    my ($name, $pattern, $new, $count) = @_;

    is($conf =~ s/$pattern/$new/g || 0, $count, $name);
}

sub download {
    my ($name, $c, $s, $command, $transfer, $content) = @_;

    my ($near, $far) = opened($name, $c, $s, $command, $transfer);

    my $got = Test::Nginx::FtpConn::pump($far, $content, $near,
        until => sub { length $_[0] >= length $content });
    $far->finish;
    $got .= $near->rest;
    ok($got eq $content, "$name bytes");
    is($near->{end}, 'eof', "$name end");
    closed($name, $c, $s);
}

sub upload {
    my ($name, $c, $s, $command, $transfer, $content) = @_;

    my ($near, $far) = opened($name, $c, $s, $command, $transfer);

    my $got = Test::Nginx::FtpConn::pump($near, $content, $far,
        until => sub { length $_[0] >= length $content });
    $near->finish;
    $got .= $far->rest;
    ok($got eq $content, "$name bytes");
    is($far->{end}, 'eof', "$name end");
    $far->close;
    closed($name, $c, $s);
}

sub opened {
    my ($name, $c, $s, $command, $transfer) = @_;

    my $listener = $server->passive;
    my $reply = $t->passive($c, $s, $listener, $command);
    my $port = $c->passive_port($reply);

    ok($t->in_range($port, 4, 63), "$name port");
    is($c->passive_addr($reply), '127.0.0.1', "$name address")
        if $command eq 'PASV';

    my $near = $c->data($port);
    my $far = $listener->accept;

    is($t->dialog($c, $s, $transfer => '150 here'), '', "$name begins");

    return ($near, $far);
}

sub closed {
    my ($name, $c, $s) = @_;

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name done");
}
