#!/usr/bin/perl

# 20,000 ports and one listening socket.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;
my $server = $t->server;

my $conf = <<"EOF";
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=29999;
        proxy_pass ${\$server->at};
    }

    server {
        listen 10000;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

# nothing to warn of, but for a listener that knows of no redirect

my ($passed, $said) = $t->check($conf);
ok($passed, 'configuration');
unlike($said, qr/\[(?:warn|error|alert|emerg)\]/, 'no warning');

($passed, $said) = $t->check($conf =~ s/ftp_original_dst on/ftp_original_dst off/r);
ok($passed, 'without');
like($said, qr/\[warn\] ports "10001-29999" of zone "ftp" have no "ftp_data"/,
    'warning');

$t->run($conf);
$t->redirect('add', '10000-29999', 10000);

my $listening = $t->in(proxy => sub {
    my @rows = map { split /\n/ } $t->command('cat', '/proc/net/tcp');
    return scalar grep { (split)[3] eq '0A' } @rows;
});
is($listening, 2, 'two listening sockets');

# sessions that hold a port each, wherever in the range

my ($bad, %ports) = (0);
my @held;

for my $i (1 .. 60) {
    my ($c, $s) = $t->session($server, addr => $t->address('proxy'));
    my $listener = $server->passive;
    my $port = $c->passive_port($t->passive($c, $s, $listener));

    $ports{$port}++;
    push @held, [$c, $s, $listener, $port];
}

is(scalar keys %ports, 60, 'ports');
is(scalar grep({ $_ < 10000 || $_ > 29999 } keys %ports), 0, 'in the range');
ok(scalar grep({ $_ > 20000 } keys %ports)
    && scalar grep({ $_ < 20000 } keys %ports), 'all over it');

for my $held (reverse @held) {
    my ($c, $s, $listener, $port) = @$held;

    my $near = $c->data($port);
    my $far = $listener->accept;
    $bad++ if $t->transfer($c, $s, $port % 2 ? 'upload' : 'download',
        $near, $far);
}

is($bad, 0, 'transfers');

$t->done;
