#!/usr/bin/perl

# What nginx may do in a container: without CAP_NET_ADMIN, and without
# CAP_NET_RAW too.  REDIRECT asks for neither; TPROXY needs either of them at
# the start, and what it cannot have is no error.  (The rules themselves need
# CAP_NET_ADMIN, but are made by somebody else.)

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new(user => 'daemon');
my %server = map { $_ => $t->server(addr => $t->address('server', $_)) } 4, 6;
my $nginx = $t->{binary};

my $conf = <<"EOF";
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
    }
EOF

for my $lost ('net_admin', 'net_raw', 'net_admin,net_raw') {
    my $without = join ',', map { "-$_" } split /,/, $lost;

    $t->{binary} = $t->write_file('nginx',
        "#!/bin/sh\nexec setpriv --bounding-set=$without $nginx \"\$@\"\n");
    chmod 0755, $t->{binary};

    $t->run($conf);

    my $both = $lost =~ /,/;

    # the last of the three is the first that is told about

    my @notices = map { /TPROXY is not possible on (\S+): / ? $1 : () }
        $t->lines(qr/\[notice\]/);
    is("@notices", $both ? '0.0.0.0:10000 [::]:10000' : '', "$lost notices");

    for my $form ($both ? 'redirect' : ('redirect', 'tproxy')) {
        $t->redirect('add', $form eq 'tproxy' ? '--tproxy' : (),
            '20000-20099', 10000);

        for my $family (4, 6) {
            my ($c, $s) = $t->session($server{$family},
                addr => $t->address('proxy', $family));
            is($t->both_ways($c, $s, 'EPSV'), '',
                "$lost $form IPv$family");
            $_->close for $c, $s;
        }
    }

    # a listener that is not transparent takes nothing from TPROXY

    if ($both) {
        $t->redirect(qw(add --tproxy 20000-20099 10000));

        for my $family (4, 6) {
            my $listener = $server{$family}->passive;
            my ($c, $s) = $t->session($server{$family},
                addr => $t->address('proxy', $family));
            my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));

            ok(!eval { $c->data($port) }, "$lost tproxy IPv$family");
            like($@, qr/refused/, "$lost tproxy IPv$family refused");
        }
    }

    ok($t->stop, "$lost end");
}

$t->done;
