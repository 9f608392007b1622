#!/usr/bin/perl

# One listening port behind REDIRECT and behind TPROXY, IPv4 and IPv6: the port
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
    log_format ftp '\$ftp_data_port \$ftp_original_dst \$ftp_original_dst_addr '
        '\$ftp_original_dst_port \$server_port \$ftp_data_status';

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

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (), '20000-20099',
        10000);

    one_port($form, $_) for 4, 6;
}

# one socket that serves both families is no different

$t->reload(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20099;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen [::]:10002 ipv6only=off;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (), '20000-20099',
        10002);

    my ($c, $s) = $t->session($server{4}, addr => $t->address('proxy', 4));
    is($t->both_ways($c, $s, 'PASV'), '', "$form, both families");
    is($c->data(10002)->ended, 'reset', "$form, both families, straight");
}

$t->done;

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

    is($t->transfer('download', $near2, $far2), '', "$name second session");
    is($t->transfer('upload', $near, $far), '', "$name first session");

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
    is($t->transfer('download', $near, $far), '', "$name still there");

    ok($t->wait_log(qr/ftp refused port/, $refused + 4), "$name refused");
    like(join('', ($t->lines(qr/ftp refused port/))[$refused .. $refused + 3]),
        qr/refused port 10000: not reserved/, "$name refused straight");
    ok(!grep({ $_->touched } $server, @listeners), "$name server untouched");

    # dialled at an address of the proxy that is not the redirected interface's

    $port = $c->passive_port($t->passive($c, $s, $listeners[0], 'EPSV'));
    $near = $c->data($port, addr => $t->address('behind', $family));
    is($t->transfer('download', $near, $listeners[0]->accept), '',
        "$name other address");

    # the log: with TPROXY the connection has arrived where it was dialled

    $t->wait_for("$name log", sub {
        $t->read_file('logs/access.log') =~ /^$port /m;
    });
    my ($line) = grep { /^$port / } $t->wait_access(1);
    is($line, "$port - - - " . ($form eq 'tproxy' ? $port : 10000)
        . ' complete', "$name log");

    $_->close for $c, $s, $c2, $s2;

    return;
}
