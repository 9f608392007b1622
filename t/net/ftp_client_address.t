#!/usr/bin/perl

# "proxy_bind $remote_addr transparent" on both servers: the FTP server sees
# the client's address.  The workers are not root: nginx leaves them the one
# capability (CAP_NET_RAW) that this takes.
#
# What it takes of the network, and the harness gives:
#
#   - the server's route back to the clients leads through the proxy (here it
#     is the default route), or its answers bypass nginx and the client resets
#     what it never asked for;
#   - at the proxy the answers are addressed to the client, but meant for
#     nginx: packets that belong to a transparent socket get a mark, and an ip
#     rule sends that mark to a table whose only route is "local default dev
#     lo".  "scripts/redirect add --client-address" (or --tproxy) does both;
#   - no forwarding and no loose rp_filter.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new(user => 'daemon');

my %server;
for my $family (4, 6) {
    $server{$family} = [map {
        $t->server(addr => $t->address($_, $family), port => 21)
    } qw(server second)];
}

my $data = <<'EOF';
    server {
        listen 10000;
        listen [::]:10000;
        ftp_original_dst on;
        ftp_data zone=ftp;
        proxy_bind $remote_addr transparent;
    }
EOF

$t->run(<<"EOF");
    server {
        listen 2121;
        listen [::]:2121;
        ftp_original_dst on;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=29999;
        proxy_pass \$ftp_original_dst;
        proxy_bind \$remote_addr transparent;
    }

    server {
        listen 21;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{4}[0]->at};
        proxy_bind \$remote_addr transparent;
    }

    server {
        listen [::]:21;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{6}[0]->at};
        proxy_bind \$remote_addr transparent;
    }

    $data
EOF

ok($t->wait_for('workers to become daemons', sub {
    return !grep { (stat "/proc/$_")[4] == 0 } $t->workers;
}), 'workers not root');

for my $form ('tproxy', 'redirect') {
    my $option = $form eq 'tproxy' ? '--tproxy' : '--client-address';

    # clients know the proxy

    $t->redirect('add', $option, '10000-29999', 10000);
    known("$form IPv$_", $_, 21) for 4, 6;

    # clients know the servers

    $t->redirect('add', $option, '--transparent', '21:2121',
        '10000-29999', 10000);

    for my $family (4, 6) {
        kept("$form IPv$family transparent", $family, $server{$family}[$_],
            $server{$family}[$_]{addr}, 21) for 0, 1;
        known("$form IPv$family beside it", $family, 21);
    }
}

# A server sees two connections from one client's address, the client's own
# choice of port and nginx's may be the same.  With TPROXY it makes no
# difference (with REDIRECT the connection tracking cannot tell them apart).

$t->redirect('add', '--tproxy', '--transparent', '21:2121', '10000-29999',
    10000);
$t->sysctl('ipv4/ip_local_port_range', '62000 62000');

for my $family (4, 6) {
    my ($c, $s) = $t->session($server{$family}[0],
        addr => $t->address('server', $family), from => 62000);
    is($c->local_port . ' ' . $s->peer_port, '62000 62000',
        "same port IPv$family");
    is($t->dialog($c, $s, NOOP => '200 ok'), '', "same port IPv$family works");
}

$t->sysctl('ipv4/ip_local_port_range', '45000 60999');

# workers after a reload, and a listened range, are no different

$data =~ s/listen (.*)10000;/listen ${1}10000-10010;/g;
$t->reload(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=10000 max_port=10010;
        proxy_pass ${\$server{4}[0]->at};
        proxy_bind \$remote_addr transparent;
    }

    $data
EOF

known('listened range', 4, 21);

$t->done;

sub known {
    my ($name, $family, $port) = @_;

    return kept($name, $family, $server{$family}[0],
        $t->address('proxy', $family), $port);
}

# Two clients in turn, in both transfers of a session.
sub kept {
    my ($name, $family, $server, $addr, $port) = @_;

    for my $whose ('client', 'other') {
        my $own = $t->address($whose, $family);
        my ($c, $s) = $t->session($server, addr => $addr, port => $port,
            bind => $own);

        is($s->peer_addr, $own, "$name $whose control");
        is($t->both_ways($c, $s, 'EPSV', peer => $own), '',
            "$name $whose data");

        $_->close for $c, $s;
    }

    return;
}
