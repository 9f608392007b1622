#!/usr/bin/perl

# Transparent control: clients dial the servers themselves, and the proxy is
# on the way.  Which servers may be reached is a map's business; the proxy
# itself never may.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;
my @servers = qw(server second third);

# {4}[0] is the first server on IPv4

my %server;
for my $family (4, 6) {
    $server{$family} = [map {
        $t->server(addr => $t->address($_, $family), port => 21)
    } @servers];
}

my ($far, $far6) = map { $t->address(other => $_) } 4, 6;

$t->run(<<"EOF");
    log_format ftp '\$ftp_original_dst|\$ftp_original_dst_addr|'
        '\$ftp_original_dst_port|\$upstream_addr|\$status';

    map \$ftp_original_dst \$wanted {
        @{[map { "${\$_->at} \$ftp_original_dst;" }
            map { @{$server{$_}}[0, 1] } 4, 6]}
    }

    access_log logs/access.log ftp;

    server {
        listen 2121;
        listen [::]:2121;
        ftp_original_dst on;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=29999;
        proxy_pass \$wanted;
        deny $far;
        deny $far6;
    }

    # any server, by a socket of both families
    server {
        listen [::]:2122 ipv6only=off;
        ftp_original_dst on;
        ftp_ctrl zone=ftp;
        proxy_pass \$ftp_original_dst;
    }

    server {
        listen 10000;
        listen [::]:10000;
        ftp_original_dst on;
        ftp_data zone=ftp;
        access_log off;
    }
EOF

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (),
        '--transparent', '21:2121', '10000-29999', 10000);

    for my $family (4, 6) {
        servers("$form IPv$family", $family);
        refused("$form IPv$family", $family);
    }
}

# Rules that spare nobody, as one may write them by hand: what is dialled at
# the proxy itself would come back for ever.  Addresses can be its own without
# being on an interface.

$t->command(qw(ip route add local), $_, qw(dev lo))
    for '198.51.100.0/24', '2001:db8:5::/64';

my %action = (
    redirect => ['redirect to :2122'],
    tproxy => ['tproxy to :2122 meta mark set 0x667470'],
    dnat => ['dnat ip to ' . $t->address('proxy') . ':2122',
        'dnat ip6 to [' . $t->address(proxy => 6) . ']:2122'],
);

for my $form ('redirect', 'tproxy', 'dnat') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (),
        '--transparent', '21:2122', '10000-29999', 10000);

    $t->nft(<<"EOF");
add table inet ftp_proxy
delete chain inet ftp_proxy to_nginx
table inet ftp_proxy {
    chain to_nginx {
        type @{[$form eq 'tproxy' ? 'filter' : 'nat']} hook prerouting priority mangle; policy accept;
        @{[join "\n        ", map { "tcp dport { 21, 2122 } $_" }
            @{$action{$form}}]}
    }
}
EOF

    for my $family (4, 6) {
        my ($c, $s) = $t->session($server{$family}[2],
            addr => $t->address('third', $family));
        is($t->dialog($c, $s, NOOP => '200 ok'), '',
            "$form IPv$family any server");
        $_->close for $c, $s;

        loop("$form IPv$family", $family);
    }
}

# Where nginx does not run nobody passes by, even if this machine is a router.

ok($t->stop, 'nginx ends');
$t->sysctl('ipv4/ip_forward', 1);
$t->sysctl('ipv6/conf/all/forwarding', 1);

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (),
        '--transparent', '21:2121', '10000-29999', 10000);

    for my $family (4, 6) {
        my $addr = $t->address('server', $family);

        for my $server ($server{$family}[0],
            $t->server(addr => $addr, port => 20000))
        {
            my $name = "$form IPv$family without nginx, port " . $server->port;

            ok(!eval { $t->connect(addr => $addr, port => $server->port) },
                $name);
            like($@, qr/refused/, "$name refused");
            ok(!$server->touched, "$name untouched");
        }
    }
}

# the rules gone, it is a router

$t->redirect('remove');
ok(eval { $t->connect(addr => $t->address('server', $_), port => 21) },
    "IPv$_ past the proxy") for 4, 6;

$t->done;

sub servers {
    my ($name, $family) = @_;

    my @sessions;

    for my $n (0, 1) {
        my $addr = $t->address($servers[$n], $family);
        my ($c, $s) = $t->session($server{$family}[$n], addr => $addr);

        is($s->local_addr, $addr, "$name $servers[$n]");
        is($s->peer_addr, $t->address('behind', $family), "$name source");

        # the client goes on with the address that it dialled

        if ($family == 4) {
            my $listener = $server{$family}[$n]->passive;
            my $reply = $t->passive($c, $s, $listener, 'PASV');
            is($c->passive_addr($reply), $addr, "$name $servers[$n] PASV");

            my $near = $c->data($c->passive_port($reply));
            is($t->transfer($c, $s, 'upload', $near, $listener->accept), '',
                "$name $servers[$n] PASV bytes");
        }

        push @sessions, [$c, $s];
    }

    # both at once, each with its own

    is($t->both_ways(@$_, 'EPSV'), '', "$name EPSV")
        for @sessions, reverse @sessions;

    my $listener = $server{$family}[0]->passive;
    my $port = $sessions[0][0]->passive_port(
        $t->passive(@{$sessions[0]}, $listener, 'EPSV'));
    is($sessions[0][0]->data($port, bind => $t->address('other', $family))
        ->ended, 'reset', "$name other client");
    ok(!$listener->touched, "$name server untouched");

    $_->close for map { @$_ } @sessions;

    for my $n (0, 1) {
        my $addr = $t->address($servers[$n], $family);
        my $at = $server{$family}[$n]->at;
        $t->wait_log(qr/connected to \Q$at\E/);
        ok($t->wait_for('access log', sub {
            $t->read_file('logs/access.log')
                =~ /^\Q$at|$addr|21|$at|200\E$/m;
        }), "$name $servers[$n] log");
    }

    return;
}

sub refused {
    my ($name, $family) = @_;

    # a server that is in no map

    my $third = $server{$family}[2];
    my $c = $t->connect(addr => $t->address('third', $family), port => 21);
    like($c->ended, qr/^(?:eof|reset)$/, "$name third server");
    ok(!$third->touched, "$name third server untouched");

    # a client that may not

    $c = $t->connect(addr => $t->address('server', $family), port => 21,
        bind => $t->address('other', $family));
    like($c->ended, qr/^(?:eof|reset)$/, "$name denied client");
    ok(!$server{$family}[0]->touched, "$name first server untouched");

    # the listener itself, straight; the machine's own port 21 is left alone

    my $refused = () = $t->lines(qr/ftp refused control connection/);

    for my $whose ('proxy', 'behind') {
        my $addr = $t->address($whose, $family);
        is($t->connect(addr => $addr, port => 2121)->ended, 'reset',
            "$name straight to $whose");
        ok(!eval { $t->connect(addr => $addr, port => 21) },
            "$name port 21 of $whose");
        like($@, qr/refused/, "$name port 21 of $whose is closed");
    }

    like($t->wait_log(qr/ftp refused control connection/, $refused + 2),
        qr/\[info\].*control connection: no original destination/,
        "$name refused log");
    ok($t->wait_for('access log', sub {
        return $refused + 2 <= (() =
            $t->read_file('logs/access.log') =~ /^-\|-\|-\|-\|403$/mg);
    }), "$name refused access log");

    return;
}

sub loop {
    my ($name, $family) = @_;

    my $loopback = $family == 4 ? '127.0.0.1' : '::1';
    my $routed = $family == 4 ? '198.51.100.7' : '2001:db8:5::7';
    my $refused = () = $t->lines(qr/ftp refused control connection/);
    my $accepted = () = $t->lines(qr/client \S+ connected to/);

    for my $addr ($routed, map { $t->address($_, $family) } 'proxy', 'behind') {
        for my $port (21, 2122) {
            is($t->connect(addr => $addr, port => $port)->ended, 'reset',
                "$name loop $addr $port");
        }
    }

    is(Test::Nginx::FtpClient->connect(addr => $loopback, port => 2122)
        ->ended, 'reset', "$name loop $loopback");

    ok($t->wait_log(qr/ftp refused control connection/, $refused + 7),
        "$name loop refused");
    is(scalar(my @all = $t->lines(qr/client \S+ connected to/)),
        $accepted + 7, "$name no loop");

    return;
}
