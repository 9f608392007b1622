#!/usr/bin/perl

# The configurations in nginx-conf that have to do with redirects, their stream
# blocks unchanged, with the command that their comments name.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new(user => 'www-data');

my @servers = map {
    $t->server(addr => $t->address($_), port => 21)
} qw(server second third);

# a command in double quotes, which may be broken over two lines

my $running;

for my $name (qw(one-port tproxy opennjet opennjet-redirect transparent)) {
    my ($stream, @commands) = example($name);

    is(scalar @commands, $name eq 'opennjet' ? 0 : 1, "$name commands");

    $t->redirect('remove');
    $t->redirect(@$_) for @commands;

    $running ? $t->reload($stream) : $t->run($stream);
    $running = 1;

    $name eq 'transparent' ? transparent() : proxy($name);
}

$t->done;

sub example {
    my ($name) = @_;

    my $path = $t->root . "/nginx-conf/$name.conf";

    open my $fh, '<', $path or die "cannot open $path: $!\n";
    my $conf = do { local $/; <$fh> };

    my ($stream) = $conf =~ /^stream \{\n(.*)^\}\n/ms
        or die "no stream block in $path\n";

    my $comments = join ' ', $conf =~ /^# (.*)$/mg;
    my @commands = map { [split] }
        $comments =~ m{"scripts/redirect ([^"]+)"}g;

    return ($stream, @commands);
}

# One server behind the proxy's own address.
sub proxy {
    my ($name) = @_;

    my ($c, $s) = $t->session($servers[0], addr => $t->address('proxy'));

    is($s->peer_addr, $t->address('behind'), "$name source");

    my $listener = $servers[0]->passive;
    my $reply = $t->passive($c, $s, $listener);
    is($c->passive_addr($reply), $t->address('proxy'), "$name PASV");

    my $near = $c->data($c->passive_port($reply));
    is($t->transfer($c, $s, 'upload', $near, $listener->accept), '', "$name upload");

    is($t->both_ways($c, $s, $_), '', "$name $_") for 'PASV', 'EPSV';

    is($c->data(10001)->ended, 'reset', "$name not reserved")
        if $name eq 'opennjet-redirect';

    $_->close for $c, $s;

    return;
}

sub transparent {
    for my $server (@servers[0, 1]) {
        my ($c, $s) = $t->session($server, addr => $server->{addr});

        is($s->peer_addr, $t->address('client'), 'transparent source');
        is($t->both_ways($c, $s, 'PASV', peer => $t->address('client')), '',
            'transparent PASV');
        is($t->both_ways($c, $s, 'EPSV', peer => $t->address('client')), '',
            'transparent EPSV');

        $_->close for $c, $s;
    }

    my $c = $t->connect(addr => $servers[2]{addr}, port => 21);
    like($c->ended, qr/^(?:eof|reset)$/, 'transparent third server');
    ok(!$servers[2]->touched, 'transparent third server untouched');

    return;
}
