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
    log_format ftp '\$remote_port \$ftp_data_port '
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

for my $form ('redirect', 'tproxy') {
    $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (), '20000-20099',
        10000);

    one_port($form, $_) for 4, 6;
}

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
    is($t->transfer('upload', $near, $listener->accept), '',
        "$form, server on the proxy");
    $_->close for $c, $s, $listener;
}

# one socket that serves both families, one for each worker, or one with an
# address (that of the interface where clients arrive) is no different

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
    }
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
    my $from = $near->local_port;
    is($t->transfer('download', $near, $listeners[0]->accept), '',
        "$name other address");

    # the log: with TPROXY the connection has arrived where it was dialled

    my $line = '';
    $t->wait_for("$name log", sub {
        ($line) = $t->read_file('logs/access.log') =~ /^$from $port (.*)$/m;
        return defined $line;
    });
    is($line, '- - - ' . ($form eq 'tproxy' ? $port : 10000)
        . ' complete', "$name log");

    $_->close for $c, $s, $c2, $s2;

    return;
}
