#!/usr/bin/perl

# ssl_verify_client on the control connection and on the data connection: none,
# a good and a wrong certificate.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;

sub ctrl {
    my ($port, $from, $more) = @_;

    return <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port($port)} $more
        ftp_ctrl zone=z$from:1m min_port=${\$t->port($from)} max_port=${\$t->port($from + 9)};
        proxy_pass ${\$server->at};
    }
EOF
}

my $verify = "ssl_verify_client on; ssl_client_certificate $dir/ca.crt;";

$t->run(<<"EOF");
    $certificates
    log_format f '\$server_port \$ssl_client_verify \$ssl_client_s_dn';
    access_log logs/access.log f;
${\ctrl(0, 10, "; ftp_auth_tls on; $verify")}
${\ctrl(1, 10, "ssl; $verify")}
${\ctrl(2, 30, '; ftp_auth_tls on;')}
    server {
        listen 127.0.0.1:${\$t->range(10, 19)};
        ftp_data zone=z10;
        $verify
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 39)} ssl;
        ftp_data zone=z30;
        $verify
    }
EOF

my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] } 'client', 'stranger';

for my $version (1.2, 1.3) {
    for my $who ('none', 'stranger') {
        my %arg = (version => $version, $who eq 'none' ? () : (cert => $cert{$who}));

        # explicit control: the server hears nothing after the greeting

        my ($c, $s) = $t->session($server);
        $c->command('AUTH TLS');
        like($c->line, qr/^234 /, "$who $version 234");
        $tls->prepare($c, %arg);
        $c->command('USER x') if $c->handshake;
        is($c->rest, '', "$who $version explicit");
        ok($c->{end}, "$who $version explicit end");
        is($s->rest, '', "$who $version explicit server");

        # implicit control: the server is not even asked

        $c = $tls->connect(port => $t->port(1));
        $tls->prepare($c, %arg);
        $c->command('USER x') if $c->handshake;
        is($c->rest, '', "$who $version implicit");
        ok($c->{end}, "$who $version implicit end");
        ok(!$server->touched, "$who $version implicit server");

        # data, where control was fine

        for my $port (0, 2) {
            ($c, $s) = $tls->explicit($t, $server, port => $t->port($port),
                version => $version, cert => $cert{client});
            is($c->protect, '', "$who $version PROT P");

            for my $verb ('RETR', 'STOR') {
                my $name = "$who $version $port $verb";
                my ($near, $far) = $tls->raw_data($t, $c, $s, 'PASV', %arg);
                is($t->dialog($c, $s, "$verb f" => '150 now'), '', $name);

                if ($verb eq 'RETR') {
                    $far->send('secret');
                    $near->handshake;
                } elsif ($near->handshake) {
                    $near->send('evil');
                    $near->finish;
                }

                is($near->rest, '', "$name bytes");
                isnt($near->{end}, 'eof', "$name end");
                is($far->rest, '', "$name server");
                is($far->{end}, 'reset', "$name server's end");
                $s->send("426 failed\r\n");
                is($c->line, "426 failed\r\n", "$name 426");
            }
        }
    }

    # with the right one everything

    my %arg = (version => $version, cert => $cert{client});

    for (['explicit', 0], ['implicit', 1], ['explicit', 2]) {
        my ($way, $port) = @$_;
        my ($c, $s) = $tls->$way($t, $server, %arg, port => $t->port($port));
        is($c->protect, '', "right $port $version PROT P");
        is($t->dialog($c, $s, 'USER x' => '230 in'), '', "right $port $version");

        my ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
        $far->send('data');
        $far->finish;
        is($near->rest, 'data', "right $port $version data");
        is($near->{end}, 'eof', "right $port $version data end");

        ($near, $far) = $tls->tls_data($t, $c, $s, 'PASV', %arg);
        $near->send('data');
        $near->finish;
        is($far->rest, 'data', "right $port $version upload");
        is($far->{end}, 'eof', "right $port $version upload end");
    }
}

Test::Nginx::FtpConn->close_all;

my @lines = $t->wait_access(1);
$t->wait_for('log of good ones', sub {
    12 <= grep { / SUCCESS CN=client$/ && !/^${\$t->port(2)} / }
        @lines = split /\n/, $t->read_file('logs/access.log');
});
cmp_ok(scalar(grep { / SUCCESS CN=client$/ } @lines), '>=', 12, 'variables');

$t->done;
