#!/usr/bin/perl

# A server on a unix socket has no address for data connections: 425, unless
# ftp_pasv_trust gives one.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $path = $t->dir . '/ftp.sock';
my $server = $t->server(path => $path);

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass unix:$path;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_pasv_trust 127.0.0.0/8;
        proxy_pass unix:$path;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my $listener = Test::Nginx::FtpServer->new;

my ($c, $s) = $t->session($server);
is($t->dialog($c, $s, 'USER x' => '331 who', 'PASS y' => '230 in'), '',
    'login');
like($t->passive($c, $s, $listener), qr/\A425 [^\r\n]+\r\n\z/, 'PASV');
like($t->passive($c, $s, $listener, 'EPSV'), qr/\A425 [^\r\n]+\r\n\z/, 'EPSV');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'in step');

# with an address that is trusted

($c, $s) = $t->session($server, port => $t->port(1));
my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
my $far = $listener->accept;
$far->send('x');
$far->finish;
is($near->rest, 'x', 'trusted');

# EPSV still has none

like($t->passive($c, $s, $listener, 'EPSV'), qr/\A425 [^\r\n]+\r\n\z/,
    'trusted EPSV');
ok(!$listener->touched, 'server untouched');

$t->done;
