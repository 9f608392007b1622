#!/usr/bin/perl

# Clients with link-local addresses (fe80::/10), which say who it is only
# together with the interface: two clients on two cables have the same one here,
# and are not taken for one another.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;

# The clients' hosts.  The interface of each is named after the other side.
my @hosts = ('client', 'server');

my ($own, $neighbour, $proxy) = ('fe80::10', 'fe80::11', 'fe80::5');

for my $host (@hosts) {
    $t->in($host => sub {
        $t->command(qw(ip address add), "$_/64", qw(dev proxy nodad))
            for $own, $neighbour;
    });
    $t->command(qw(ip address add), "$proxy/64", dev => $host, 'nodad');
}

my %server = map { $_ => $t->server(addr => $t->address('server', $_)) } 4, 6;

# one port of a zone, so that it is the address alone that counts

my $conf = <<"EOF";
    log_format ftp '\$remote_addr \$ftp_data_status';

    server {
        listen [::]:21;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=10000;
        ftp_client_mode any;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen [::]:2121;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{6}->at};
    }

    server {
        listen [::]:2122;
        ftp_ctrl zone=ftp;
        ftp_client_mode active;
        ftp_server_mode passive;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen [::]:2123;
        ftp_ctrl zone=two:1m min_port=10001 max_port=10010;
        ftp_server_mode active;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen 10000;
        listen [::]:10000;
        ftp_data zone=ftp;
        access_log logs/access.log ftp;
    }

    server {
        listen 10001-10010;
        listen [::]:10001-10010;
        ftp_data zone=two;
    }
EOF

# nginx itself has no way to write a server's interface

for my $at ('[fe80::91%server]:21', 'fe80::91%server:21') {
    my ($passed, $said) = $t->check($conf =~ s/proxy_pass .*?;/proxy_pass $at;/r);

    ok(!$passed, "proxy_pass $at");
    like($said, qr/\[emerg\] .* in .*:${\$t->stream_line(7)}$/m, 'where');
}

$t->run($conf);

# What a client of that host needs.
sub link_local {
    my ($host, %arg) = @_;

    return (
        host => $host,
        addr => "$proxy%proxy",
        bind => "$own%proxy",
        %arg,
    );
}

sub session {
    my ($host, $port, $family) = @_;

    return $t->session($server{$family // 4},
        link_local($host, port => $port));
}

sub listener {
    my ($host, $port) = @_;

    return $t->in($host => sub {
        Test::Nginx::FtpServer->new(addr => "$own%proxy", port => $port);
    });
}

sub eprt { sprintf 'EPRT |2|%s|%d|', $own, $_[0]->port }

# passive mode

for my $host (@hosts) {
    for my $family (4, 6) {
        my ($c, $s) = session($host, $family == 4 ? 21 : 2121, $family);

        is($c->peer_addr, $proxy, "$host IPv$family link-local");
        is($t->both_ways($c, $s, 'EPSV'), '', "$host IPv$family");

        $c->command('PASV');
        like($c->line, qr/\A425 /, "$host IPv$family PASV");
        $_->close for $c, $s;
    }
}

# each has the one port for itself, whoever asks first and comes first

for my $order ([0, 1], [1, 0]) {
    my %of;

    for my $host (@hosts[@$order]) {
        my ($c, $s) = session($host, 21);
        my $listener = $t->server(addr => $s->local_addr);
        my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));

        is($port, 10000, "$host port");
        $of{$host} = { c => $c, s => $s, listener => $listener };
    }

    for my $host (reverse @hosts[@$order]) {
        my $near = $of{$host}{near} = $of{$host}{c}->data(10000);
        my $far = $of{$host}{listener}->accept;

        $far->send("for $host");
        $far->finish;
        is($near->rest, "for $host", "$host got its own");
        is($near->{end}, 'eof', "$host end");
    }

    for my $host (@hosts) {
        ok(!$of{$host}{listener}->touched, "$host server's port touched once");
        $_->close for @{$of{$host}}{'c', 's', 'near'};
    }
}

# where only one has reserved it, the other one is refused

for my $pair ([@hosts], [reverse @hosts]) {
    my ($host, $other) = @$pair;
    my ($c, $s) = session($host, 21);
    my $listener = $t->server(addr => $s->local_addr);

    $t->passive($c, $s, $listener, 'EPSV');

    for my $stranger (
        [$other => $own],
        [$other => $neighbour],
        [$host => $neighbour],
    ) {
        my ($from, $addr) = @$stranger;
        my $end = $t->connect(link_local($from, port => 10000,
            bind => "$addr%proxy"))->ended;

        is($end, 'reset', "$host has reserved, $addr of $from");
    }

    my $end = $t->connect(host => $host, port => 10000,
        addr => $t->address($host eq 'client' ? 'proxy' : 'behind', 6))->ended;
    is($end, 'reset', "$host has reserved, and comes from elsewhere");

    ok(!$listener->touched, "$host server's port untouched");

    my ($near, $far) = ($c->data(10000), $listener->accept);
    is($t->transfer($c, $s, 'upload', $near, $far), '', "$host upload");
    $_->close for $c, $s;
}

# active mode: the proxy dials that one of the two that has asked, from the
# address that it knows

for my $pair ([@hosts], [reverse @hosts]) {
    my ($host, $other) = @$pair;

    for my $case ([21, 'server active'], [2122, 'server passive']) {
        my ($port, $name) = @$case;
        my ($c, $s) = session($host, $port);
        my $listener = listener($host);
        my $trap = listener($other, $listener->port);

        for my $way ('download', 'upload') {
            my ($passive, @told);

            $c->command(eprt($listener));

            if ($port == 21) {
                @told = $t->told($s->line);
                $s->send("200 okay\r\n");

            } else {
                is($s->line, "EPSV\r\n", "$host, $name, $way asked");
                $passive = $t->server(addr => $s->local_addr);
                $s->send("229 Extended (|||${\$passive->port}|)\r\n");
            }

            like($c->line, qr/\A200 /, "$host, $name, $way EPRT");
            $c->command($way eq 'upload' ? 'STOR f' : 'RETR f');
            $s->line;

            my $dialled = @told
                ? $t->in(server => sub { $t->dial($s, @told) }) : undef;
            my $near = $listener->accept;
            my $far = $dialled // $passive->accept;

            is($near->peer_addr, $proxy, "$host, $name, $way from");
            is($t->move($way, $near, $far), '', "$host, $name, $way");
            is($t->complete($c, $s), '', "$host, $name, $way told");
        }

        $c->command("EPRT |2|$neighbour|${\$listener->port}|");
        like($c->line, qr/\A504 /, "$host, $name, its neighbour");

        # the interface has no place in EPRT
        $c->command("EPRT |2|$own%1|${\$listener->port}|");
        like($c->line, qr/\A501 /, "$host, $name, with a scope");

        ok(!$trap->touched, "$host, $name, the other one was not dialled");
        $_->close for $c, $s, $listener, $trap;
    }
}

# a passive client before an active server: the two do not meet the other's

for my $pair ([@hosts], [reverse @hosts]) {
    my ($host, $other) = @$pair;
    my ($c, $s) = session($host, 2123);

    for my $way ('download', 'upload') {
        $c->command('EPSV');
        my @told = $t->told($s->line);
        $s->send("200 okay\r\n");
        my $port = $c->passive_port($c->line);

        is($t->connect(link_local($other, port => $port))->ended, 'reset',
            "$host meets, not $other");

        my $near = $c->data($port);
        my $far = $t->in(server => sub { $t->dial($s, @told) });

        is($t->transfer($c, $s, $way, $near, $far), '', "$host meets, $way");
    }

    $_->close for $c, $s;
}

# what the logs tell: nginx writes no interface, we do

my %index = map { $_ => $t->command(qw(ip -o link show dev), $_) =~ /^(\d+):/ }
    @hosts;
isnt($index{client}, $index{server}, 'two interfaces');

for my $host (@hosts) {
    ok($t->lines(qr/ftp reserved port 10000 for $own%$index{$host},/),
        "$host reserved, in the log");
    ok($t->lines(qr/ftp finished port 10000 of $own%$index{$host},/),
        "$host finished, in the log");
}

is((grep { $_ eq "$own complete" } $t->wait_access(1)) > 0, 1, 'access log');

$t->done;
