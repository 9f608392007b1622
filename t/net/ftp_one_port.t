#!/usr/bin/perl

# One listening port behind REDIRECT, TPROXY and DNAT, IPv4 and IPv6: the port
# that the client dialled counts, never the one it arrived at.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;
my %server = map { $_ => $t->server(addr => $t->address('server', $_)) } 4, 6;

$t->run(<<"EOF");
    log_format ftp '\$ftp_data_port '
        '\$ftp_original_dst \$ftp_original_dst_addr \$ftp_original_dst_port '
        '\$server_port \$ftp_data_status';

    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20099;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen [::]:21;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{6}->at};
    }

    server {
        listen 10000;
        listen [::]:10000;
        ftp_original_dst on;
        ftp_data zone=ftp;
        access_log logs/access.log ftp;
    }
EOF

# Address that only a rule makes the proxy's.
my %outer = (4 => '198.51.100.5', 6 => '2001:db8:6::5');

# TPROXY comes first: connections are tracked from the first rule on that asks
# for it, and then all of them, a transfer as two.

for my $form ('tproxy', 'redirect', 'dnat by nft', 'dnat by iptables') {
    rules($form);
    tracked($form) if $form =~ /^(?:tproxy|redirect)$/;

    for my $family (4, 6) {
        one_port($form, $family);
        same_port($form, $family);
        outer($form, $family) if $form =~ /dnat/;
    }

    firewall($form);
}

rules('none');

# a server on the proxy itself: its data ports may lie in the redirected range,
# as what this machine dials is not redirected

my $here = Test::Nginx::FtpServer->new;

$t->reload(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20099;
        proxy_pass ${\$here->at};
    }

    server {
        listen 10000;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (), '20000-20199',
        10000);

    my $listener = Test::Nginx::FtpServer->new(port => 20150);
    my ($c, $s) = $t->session($here, addr => $t->address('proxy'));
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    is($t->transfer($c, $s, 'upload', $near, $listener->accept), '',
        "$form, server on the proxy");
    $_->close for $c, $s, $listener;
}

# one socket that serves both families, one for each worker, or one with an
# address (that of the interface where clients arrive) is no different, whether
# connections are tracked or not

$t->nft(<<'EOF');
table inet state {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
    }
}
EOF

for my $listen ('[::]:10002 ipv6only=off', '10003 reuseport',
    $t->address('proxy') . ':10004')
{
    $t->reload(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20099;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen $listen;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

    my ($port) = $listen =~ /\b(1000\d)\b/;

    for my $form ('redirect', 'tproxy') {
        $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (),
            '20000-20099', $port);

        my ($c, $s) = $t->session($server{4}, addr => $t->address('proxy'));
        is($t->both_ways($c, $s, 'PASV'), '', "$form, $listen")
            for 1 .. 5;
        is($c->data($port)->ended, 'reset', "$form, $listen, straight");
        $_->close for $c, $s;

        same_port("$form, $listen", 4);
    }
}

$t->done;

# The form's rules, and no others.
sub rules {
    my ($form) = @_;

    $t->redirect('remove');
    $t->nft("add table inet dnat_test\ndelete table inet dnat_test\n");
    $t->command($_, qw(-w -t nat -F PREROUTING)) for qw(iptables ip6tables);

    if ($form eq 'dnat by nft') {
        $t->nft(join "\n", 'table inet dnat_test {', 'chain prerouting {',
            'type nat hook prerouting priority dstnat; policy accept;',
            (map {
                my $to = "dnat " . dnat_to($_);
                my $daddr = ($_ == 4 ? 'ip' : 'ip6') . " daddr $outer{$_}";

                "meta nfproto ipv$_ fib daddr type local tcp dport 20000-20099"
                    . " $to:10000",
                "$daddr tcp dport 20000-20099 $to:10000",
                "$daddr tcp dport 21 $to:21",
            } 4, 6), '}', '}', '');

    } elsif ($form eq 'dnat by iptables') {
        for my $family (4, 6) {
            my @add = ($family == 4 ? 'iptables' : 'ip6tables',
                qw(-w -t nat -A PREROUTING -p tcp));
            my ($to) = (split ' ', dnat_to($family))[-1];
            my @dnat = qw(-j DNAT --to-destination);

            $t->command(@add, qw(-m addrtype --dst-type LOCAL --dport
                20000:20099), @dnat, "$to:10000");
            $t->command(@add, '-d', $outer{$family}, qw(--dport 20000:20099),
                @dnat, "$to:10000");
            $t->command(@add, '-d', $outer{$family}, qw(--dport 21), @dnat,
                "$to:21");
        }

    } elsif ($form ne 'none') {
        $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (),
            '20000-20099', 10000);
    }

    return;
}

# The proxy's own address as nft writes it before a port.
sub dnat_to {
    my ($family) = @_;

    my $addr = $t->address('proxy', $family);

    return $family == 4 ? "ip to $addr" : "ip6 to [$addr]";
}

# Entries in connection tracking after a session with two transfers.
sub tracked {
    my ($form) = @_;

    my ($c, $s) = $t->session($server{4}, addr => $t->address('proxy'));
    is($t->both_ways($c, $s, 'PASV'), '', "$form first session");
    $_->close for $c, $s;

    is($t->command('cat', '/proc/sys/net/netfilter/nf_conntrack_count'),
        $form eq 'tproxy' ? "0\n" : "6\n", "$form tracked");

    return;
}

# Two data connections from the same port of the client: redirected to one port
# they would be the same connection.
sub same_port {
    my ($form, $family) = @_;

    my $name = "$form IPv$family, one port of the client";
    my $server = $server{$family};
    my (@sessions, @data, $from);

    for (1, 2) {
        my ($c, $s) = $t->session($server,
            addr => $t->address('proxy', $family));
        my $listener = $server->passive;
        my $near = $c->data($c->passive_port(
            $t->passive($c, $s, $listener, 'EPSV')), from => $from);

        push @sessions, [$c, $s, $listener];
        push @data, [$near, $listener->accept];
        $from //= $near->local_port;
    }

    is($data[1][0]->local_port, $from, $name);
    my @pairs = map { [@{$sessions[$_]}[0, 1]] } 0, 1;
    is($t->transfer(@{$pairs[1]}, 'upload', @{$data[1]}), '', "$name, upload");
    is($t->transfer(@{$pairs[0]}, 'download', @{$data[0]}), '',
        "$name, download");

    $_->close for map { @$_ } @sessions;

    return;
}

# Clients that dial an address which no interface of the proxy has.
sub outer {
    my ($form, $family) = @_;

    my ($c, $s) = $t->session($server{$family}, addr => $outer{$family});
    is($t->both_ways($c, $s, 'EPSV'), '', "$form IPv$family outer address");
    $_->close for $c, $s;

    return;
}

# What a packet filter has to let in: the listener's port, but of TPROXY the
# range.
sub firewall {
    my ($form) = @_;

    for my $open ('10000', '20000-20099') {
        $t->nft(<<"EOF");
table inet firewall {
    chain input {
        type filter hook input priority filter; policy accept;
        iifname client tcp dport != { 21, $open } reject with tcp reset
    }
}
EOF

        for my $family (4, 6) {
            my $name = "$form IPv$family, firewall lets in $open";
            my ($c, $s) = $t->session($server{$family},
                addr => $t->address('proxy', $family));

            if (($form eq 'tproxy') == ($open ne '10000')) {
                is($t->both_ways($c, $s, 'EPSV'), '', $name);

            } else {
                my $port = $c->passive_port($t->passive($c, $s,
                    $server{$family}->passive, 'EPSV'));
                ok(!eval { $c->data($port) }, $name);
                like($@, qr/refused/, "$name, refused");
            }

            $_->close for $c, $s;
        }

        $t->command(qw(nft delete table inet firewall));
    }

    return;
}

sub one_port {
    my ($form, $family) = @_;

    my $name = "$form IPv$family";
    my $at = $t->address('proxy', $family);
    my $server = $server{$family};
    my $refused = $t->lines(qr/ftp refused port/);

    my ($c, $s) = $t->session($server, addr => $at);

    # both ways, in each mode that the family has

    for my $command ($family == 4 ? 'PASV' : (), 'EPSV') {
        is($t->both_ways($c, $s, $command), '', "$name $command");
    }

    # two sessions: each port leads to its own server

    my ($c2, $s2) = $t->session($server, addr => $at);
    my @listeners = map { $server->passive } 1, 2;
    my ($port, $port2) = map {
        $_->[0]->passive_port($t->passive(@$_, 'EPSV'))
    } [$c, $s, $listeners[0]], [$c2, $s2, $listeners[1]];

    isnt($port, $port2, "$name two ports");

    my $near2 = $c2->data($port2);
    my $far2 = $listeners[1]->accept;
    my $near = $c->data($port);
    my $far = $listeners[0]->accept;

    is($t->transfer($c2, $s2, 'download', $near2, $far2), '',
        "$name second session");
    is($t->transfer($c, $s, 'upload', $near, $far), '', "$name first session");

    # what is not reserved is refused: another port of the range, another
    # client, the listener's own port dialled straight, the same port again

    $port = $c->passive_port($t->passive($c, $s, $listeners[0], 'EPSV'));

    is($c->data($port == 20099 ? 20000 : $port + 1)->ended, 'reset',
        "$name other port");
    is($c->data($port, bind => $t->address('other', $family))->ended, 'reset',
        "$name other client");
    is($c->data(10000)->ended, 'reset', "$name straight");

    $near = $c->data($port);
    $far = $listeners[0]->accept;
    is($c->data($port)->ended, 'reset', "$name again");
    is($t->transfer($c, $s, 'download', $near, $far), '', "$name still there");

    ok($t->wait_log(qr/ftp refused port/, $refused + 4), "$name refused");
    like(join('', ($t->lines(qr/ftp refused port/))[$refused .. $refused + 3]),
        qr/refused port 10000: not reserved/, "$name refused straight");
    ok(!grep({ $_->touched } $server, @listeners), "$name server untouched");

    # dialled at an address of the proxy that is not the redirected interface's

    $port = $c->passive_port($t->passive($c, $s, $listeners[0], 'EPSV'));
    my $logged = length $t->read_file('logs/access.log');
    $near = $c->data($port, addr => $t->address('behind', $family));
    is($t->transfer($c, $s, 'download', $near, $listeners[0]->accept), '',
        "$name other address");

    # the log: with TPROXY the connection has arrived where it was dialled

    my $line = '';
    $t->wait_for("$name log", sub {
        ($line) = substr($t->read_file('logs/access.log'), $logged)
            =~ /^$port (.*)$/m;
        return defined $line;
    });
    is($line, '- - - ' . ($form eq 'tproxy' ? $port : 10000)
        . ' complete', "$name log");

    $_->close for $c, $s, $c2, $s2;

    return;
}
