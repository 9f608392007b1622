#!/usr/bin/perl

# An upload may be over before nginx has read its command, which another worker
# reads: small files of clients that do not wait for 150. The log tells of it as
# of any other.

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

# one worker, which reads what comes first first
$t->run(<<"EOC", workers => 1);
    $certificates
    log_format data '\$ftp_data_port \$ftp_command \$ftp_path \$bytes_received \$ftp_data_status';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        ftp_auth_tls on;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        access_log logs/access.log data;
    }
EOC

my $lines = 0;

for my $protected (0, 1) {
    my $with = $protected ? 'TLS: ' : '';
    my ($c, $s) = $protected ? $tls->explicit($t, $server) : $t->session($server);
    $c->protect if $protected;

    for my $content ('x', '') {
        my $name = $with . (length $content ? 'a byte' : 'nothing');
        my ($near, $far) = $protected ? $tls->tls_data($t, $c, $s) : $t->data($c, $s);

        $near->send($content) if length $content;
        $near->finish;
        is($far->bytes(length $content), $content, "$name comes") if length $content;

        is($t->dialog($c, $s, "STOR early" => '150 here'), '', "$name, command");
        is($far->rest, '', "$name, nothing else");
        is($far->ended, 'eof', "$name, end");
        is(logged(), 'STOR early ' . length($content) . ' complete', "$name in the log");
    }

    # a download that is not: the command names it, too

    my ($near, $far) = $protected ? $tls->tls_data($t, $c, $s) : $t->data($c, $s);
    $near->finish;
    is($t->dialog($c, $s, 'RETR late' => '550 no'), '', "${with}broken off, command");
    $far->ended;
    is(logged(), 'RETR late 0 cut', "${with}broken off in the log");

    next if $protected;

    # no command ever

    ($near, $far) = $t->data($c, $s);
    $near->send('lost');
    $near->finish;
    is($far->rest, 'lost', 'without command');
    is($far->ended, 'eof', 'without command, end');
    is(logged(), '- - 4 complete', 'without command in the log');

    # its session is gone

    ($near, $far) = $t->data($c, $s);
    $near->send('lost');
    is($far->bytes(4), 'lost', 'without session');
    $c->close;
    $s->ended;
    $near->finish;
    is($far->ended, 'eof', 'without session, end');
    is(logged(), '- - 4 complete', 'without session in the log');
}

$t->done;

# The next line of the data server, without the port.
sub logged {
    $t->wait_access(++$lines);

    my @all = split /\n/, $t->read_file('logs/access.log');

    return $all[$lines - 1] =~ s/^\d+ //r;
}
