#!/usr/bin/perl

# A session over TLS in front of a server that knows none: login, listing,
# download and upload, explicit and implicit, private and in clear.

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

$t->run(<<"EOF");
    $certificates
    log_format f '\$server_port \$ftp_session \$ftp_user \$ftp_data_status '
        '\$ssl_protocol \$ssl_server_name \$ftp_command \$ftp_path';
    access_log logs/access.log f;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(30)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)} ssl;
        ftp_ctrl zone=ftp min_port=${\$t->port(10)} max_port=${\$t->port(30)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 30)};
        ftp_data zone=ftp;
    }
EOF

my $bytes = join('', map { chr } 0 .. 255) x 1500;

for my $kind ('explicit', 'implicit') {
    for my $version (1.2, 1.3) {
        my $name = "$kind TLS $version";
        my %arg = (version => $version, ca => $t->dir . '/ca.crt',
            name => 'ftp.example');

        my ($c, $s) = $tls->$kind($t, $server, %arg,
            port => $t->port($kind eq 'explicit' ? 0 : 1));

        is($c->version, 'TLSv' . $version, "$name version");
        is($t->dialog($c, $s,
            'USER somebody'    => '331 password',
            'PASS hidden-word' => "230-welcome\r\n230 in",
            'TYPE I'           => '200 binary',
        ), '', "$name login");

        for my $level ('P', 'C') {
            is($c->protect($level), '', "$name PROT $level");

            for my $mode ('PASV', 'EPSV') {
                for my $verb ('LIST', 'RETR', 'STOR') {
                    my $case = "$name $level $mode $verb";

                    my ($near, $far) = $level eq 'P'
                        ? $tls->raw_data($t, $c, $s, $mode, %arg)
                        : $t->data($c, $s, $mode);

                    $c->command("$verb f");
                    is($s->line, "$verb f\r\n", "$case command");
                    $s->send("150 now\r\n");
                    is($c->line, "150 now\r\n", "$case 150");

                    ok($near->handshake, "$case handshake") if $level eq 'P';

                    my ($from, $to) = $verb eq 'STOR'
                        ? ($near, $far) : ($far, $near);

                    $from->send($bytes);
                    $from->finish;
                    ok($to->rest eq $bytes, "$case bytes");
                    is($to->{end}, 'eof', "$case end");
                    is($from->ended, 'eof', "$case other end");

                    $s->send("226 done\r\n");
                    is($c->line, "226 done\r\n", "$case 226");
                }
            }
        }

        is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
        $s->finish;
        is($c->ended, 'eof', "$name control end");
        is($s->ended, 'eof', "$name server's control end");
    }
}

my @lines = $t->wait_access(4 * 13);

my ($explicit, $implicit) = ($t->port(0), $t->port(1));
my @control = grep { /^(?:$explicit|$implicit) / } @lines;
is(@control, 4, 'control lines');
is(grep({ / somebody - TLSv1(?:\.[23]) ftp\.example / } @control), 4,
    'control variables');

my @data = grep { / somebody complete / } @lines;
is(@data, 48, 'data lines');
is(grep({ / complete TLSv1\.[23] ftp\.example / } @data), 24, 'private ones');
is(grep({ / complete - - / } @data), 24, 'clear ones');

my %ids = map { (split)[1] => 1 } @lines;
is(keys %ids, 4, 'sessions');

unlike($t->log, qr/hidden-word/, 'password not in the log');
unlike($t->read_file('logs/access.log'), qr/hidden-word/, 'nor there');

$t->done;
