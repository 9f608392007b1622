#!/usr/bin/perl

# Active mode and translation between hosts, with nginx-conf/active-mode.conf as
# it is: which addresses each side sees, and that no more has to be open than
# the configuration says.

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

my $path = $t->root . '/nginx-conf/active-mode.conf';
open my $fh, '<', $path or die "cannot open $path: $!\n";
my ($stream) = do { local $/; <$fh> } =~ /^stream \{\n(.*)^\}\n/ms
    or die "no stream block in $path\n";
close $fh;

$t->run($stream);

my $bytes = join('', map { chr } 0 .. 255) x 300;

# Firewalls that let new connections in to these ports only.
sub firewall {
    my (%open) = @_;

    for my $host (sort keys %open) {
        my $ports = $open{$host};

        $t->in($host => sub {
            $t->nft(<<"END");
table inet ftp_test
delete table inet ftp_test
table inet ftp_test {
    chain input {
        type filter hook input priority 0;
        tcp flags & (syn | ack) == syn tcp dport { $ports } accept
        tcp flags & (syn | ack) == syn drop
    }
}
END
        });
    }

    return;
}

sub listener {
    my ($host, $addr) = @_;

    return $t->in($host => sub { Test::Nginx::FtpServer->new(addr => $addr) });
}

# A transfer each way; the modes of both sides are told by what they send.
sub both_ways {
    my ($c, $s, $name, $command, $asked) = @_;

    for my $verb ('RETR', 'STOR') {
        my $case = "$name $command $verb";
        my ($client, $passive, @told, $near, $far);

        if ($command =~ /^(?:PORT|EPRT)$/) {
            $client = listener(client => $c->local_addr);
            $c->command($t->active_command($client, $command));

        } else {
            $c->command($command);
        }

        my $line = $s->line;
        like($line, qr/\A$asked\b/, "$case asked");

        if ($line =~ /\A(?:EPSV|PASV)/) {
            $passive = listener(server => $s->local_addr);
            $s->send($line =~ /^E/
                ? "229 Extended (|||${\$passive->port}|)\r\n"
                : "227 Passive (${\$passive->hostport})\r\n");

        } else {
            @told = $t->told($line);
            is($told[0], $t->address('behind'), "$case told");
            $s->send("200 okay\r\n");
        }

        my $reply = $c->line;
        like($reply, qr/\A2/, "$case answered");
        is($c->passive_addr($reply), $t->address('proxy'), "$case told client")
            if $command eq 'PASV';

        $near = $c->data($c->passive_port($reply)) unless $client;
        $c->command("$verb f");
        is($s->line, "$verb f\r\n", "$case command");
        $far = $t->in(server => sub { $t->dial($s, @told) }) if @told;
        $near //= $client->accept;
        $far //= $passive->accept;

        is($near->peer_addr, $c->peer_addr, "$case client's peer");
        is($far->peer_addr, $t->address('behind'), "$case server's peer");

        my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);
        $from->send($bytes);
        $from->finish;
        ok($to->rest eq $bytes, "$case bytes");
        is($to->{end}, 'eof', "$case end");
        is($from->ended, 'eof', "$case other end");

        $s->send("226 done\r\n");
        is($c->line, "226 done\r\n", "$case 226");
    }

    return;
}

my $range = '10000-10099';
my $any = '1024-65535';

for my $case (
    # port, server, command, what the server is asked; open: client, proxy,
    # server
    [21,   0, 'PASV', 'PASV', 1,    "21, $range", "21, $any"],
    [21,   0, 'EPSV', 'EPSV', 1,    "21, $range", "21, $any"],
    [21,   0, 'PORT', 'PORT', $any, "21, $range", 21],
    [21,   0, 'EPRT', 'PORT', $any, "21, $range", 21],
    [2121, 1, 'PASV', 'PASV', 1,    "2121, $range", "21, $any"],
    [2121, 1, 'PORT', 'EPSV', $any, 2121, "21, $any"],
    [2122, 2, 'PASV', 'PORT', 1,    "2122, $range", 21],
    [2122, 2, 'EPSV', 'PORT', 1,    "2122, $range", 21],
    [2122, 2, 'EPRT', 'PORT', $any, "2122, $range", 21],
) {
    my ($port, $n, $command, $asked, @open) = @$case;

    firewall(client => $open[0], proxy => $open[1], server => $open[2]);

    my ($c, $s) = $t->session($servers[$n], addr => $t->address('proxy'),
        port => $port);

    both_ways($c, $s, "port $port", $command, $asked);
    $_->close for $c, $s;
}

# an IPv6 client and IPv4 servers

firewall(client => $any, proxy => "21, 2121, 2122, $range", server => "21, $any");

for my $case (
    [21,   0, 'EPRT', 'PORT'],
    [21,   0, 'EPSV', 'EPSV'],
    [2121, 1, 'EPRT', 'EPSV'],
    [2122, 2, 'EPSV', 'PORT'],
) {
    my ($port, $n, $command, $asked) = @$case;
    my ($c, $s) = $t->session($servers[$n], addr => $t->address('proxy', 6),
        port => $port);

    both_ways($c, $s, "IPv6, port $port", $command, $asked);
    $_->close for $c, $s;
}

# another client's address, and one of another server

{
    my ($c, $s) = $t->session($servers[0], addr => $t->address('proxy'),
        port => 21);
    my $other = listener(client => $t->address('other'));

    $c->command($t->active_command($other));
    like($c->line, qr/\A50[14] /, 'another client');

    my $client = listener(client => $t->address('client'));
    my @told = $t->active($c, $s, $client);
    my $stranger = $t->in(server => sub {
        $t->dial($s, @told, bind => $t->address('second'));
    });
    is($stranger->ended, 'reset', 'another server');
    ok(!$client->touched && !$other->touched, 'nobody was dialled');
}

$t->done;
