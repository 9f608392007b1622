#!/usr/bin/perl

# ftp_original_dst on a range that nginx itself listens on: where nothing is
# redirected the accepted port counts, whether connections are tracked or not.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;
my %server = map { $_ => $t->server(addr => $t->address('server', $_)) } 4, 6;

$t->run(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20010;
        proxy_pass ${\$server{4}->at};
    }

    server {
        listen [::]:21;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{6}->at};
    }

    server {
        listen 20000-20010;
        listen [::]:20000-20010;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

range('untracked');

# any rule that asks for the state of connections makes the kernel track them

$t->nft(<<'EOF');
table inet state {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
    }
}
EOF

range('tracked');

# a rule that redirects only what is dialled elsewhere

$t->nft(<<'EOF');
table inet elsewhere {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport 30000-30010 redirect to :20000
    }
}
EOF

range('beside a redirect');

my ($c, $s) = $t->session($server{4}, addr => $t->address('proxy'));
is($c->data(30000)->ended, 'reset', 'redirected port');
ok($t->wait_log(qr/ftp refused port 30000: not reserved/), 'its log');

$t->done;

sub range {
    my ($name) = @_;

    for my $family (4, 6) {
        my $server = $server{$family};
        my ($c, $s) = $t->session($server,
            addr => $t->address('proxy', $family));

        is($t->both_ways($c, $s, 'EPSV'), '', "$name IPv$family");

        my $listener = $server->passive;
        my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));

        is($c->data($port == 20010 ? 20000 : $port + 1)->ended, 'reset',
            "$name IPv$family other port");
        is($c->data($port, bind => $t->address('other', $family))->ended,
            'reset', "$name IPv$family other client");
        ok(!$listener->touched, "$name IPv$family server untouched");

        $_->close for $c, $s;
    }

    return;
}
