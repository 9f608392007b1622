#!/usr/bin/perl

# Active mode, PORT and EPRT: the server dials the proxy, the proxy dials the
# client.  Downloads and uploads, IPv4 and IPv6, many on one port.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');
my $server6 = $t->server(addr => '::1');

$t->run(<<"EOF");
    ftp_client_mode any;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen [::1]:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server6->at};
    }

    server {
        listen [::1]:${\$t->port(2)};
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(3)};
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server6->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(4)};
        ftp_ctrl zone=ftp server_ip=127.0.0.5;
        proxy_pass ${\$server->at};
    }

    map \$remote_addr \$inner { default 127.0.0.6; }

    server {
        listen 127.0.0.1:${\$t->port(5)};
        ftp_ctrl zone=ftp server_ip=\$inner;
        proxy_pass ${\$server->at};
    }

    map \$remote_addr \$nonsense { default nonsense; }

    server {
        listen 127.0.0.1:${\$t->port(6)};
        ftp_ctrl zone=ftp server_ip=\$nonsense;
        proxy_pass ${\$server->at};
    }

    server {
        listen ${\$t->range(10, 20)};
        listen [::1]:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my $bytes = join '', map { chr } 0 .. 255;

for my $case (
    ['IPv4', 'PORT', 0, '127.0.0.1', $server, '127.0.0.1'],
    ['IPv4', 'EPRT', 0, '127.0.0.1', $server, '127.0.0.1'],
    ['IPv6', 'EPRT', 1, '::1', $server6, '::1'],
    ['IPv6 to IPv4', 'EPRT', 2, '::1', $server, '127.0.0.1'],
    ['IPv4 to IPv6', 'PORT', 3, '127.0.0.1', $server6, '::1'],
    ['IPv4 to IPv6', 'EPRT', 3, '127.0.0.1', $server6, '::1'],
    ['server_ip', 'PORT', 4, '127.0.0.1', $server, '127.0.0.5'],
    ['server_ip of a variable', 'PORT', 5, '127.0.0.1', $server, '127.0.0.6'],
) {
    my ($name, $command, $at, $addr, $to, $told) = @$case;
    my ($c, $s) = $t->session($to, port => $t->port($at), addr => $addr);

    $name = "$name $command";

    # what the server is told

    my $listener = $t->server(addr => $addr);
    my @told = $t->active($c, $s, $listener, $command);
    is($told[0], $told, "$name address");
    ok($t->in_range($told[1], 10, 20), "$name port in range");

    # a listing: the server dials, then says 150

    my $far = $t->dial($s, @told);
    my $near = $listener->accept;
    is($near->peer_addr, $addr, "$name source address");
    transfer($c, $s, "$name list", 'LIST', $far, $near, "-rw-r--r-- file\r\n");

    # more in the same login, both ways

    for my $size (0, 1, 1200) {
        ($near, $far) = $t->active_data($c, $s, $command);
        transfer($c, $s, "$name download $size", 'RETR file', $far, $near,
            $bytes x $size);
        ($near, $far) = $t->active_data($c, $s, $command);
        transfer($c, $s, "$name upload $size", 'STOR file', $near, $far,
            $bytes x $size);
    }

    # the command first, as servers have it that dial late

    $listener = $t->server(addr => $addr);
    @told = $t->active($c, $s, $listener, $command);
    $c->command('RETR late');
    is($s->line, "RETR late\r\n", "$name late command");
    $s->send("150 now\r\n");
    is($c->line, "150 now\r\n", "$name late 150");
    $far = $t->dial($s, @told);
    $near = $listener->accept;
    $far->send($bytes);
    $far->finish;
    is($near->rest, $bytes, "$name late bytes");
    is($near->ended, 'eof', "$name late end");
    $near->close;
    is($far->ended, 'eof', "$name late server's end");
    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name late 226");

    # the server's bytes and its end are there before the client has accepted

    $listener = $t->server(addr => $addr);
    $far = $t->dial($s, $t->active($c, $s, $listener, $command),
        before => $bytes);
    $far->finish;
    $near = $listener->accept;
    is($near->rest, $bytes, "$name early bytes");
    is($near->ended, 'eof', "$name early end");

    # passive mode beside it

    ($near, $far) = $t->data($c, $s, 'EPSV');
    transfer($c, $s, "$name passive", 'RETR file', $far, $near, $bytes);

    is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
    $s->close;
    is($c->ended, 'eof', "$name end");
}

# an address that cannot be told

{
    my ($c, $s) = $t->session($server, port => $t->port(6));

    my $line = $t->new_log(qr/invalid "server_ip" address "nonsense"/, sub {
        $c->command($t->active_command($t->server));
        like($c->line, qr/\A425 /, 'no server_ip');
    });
    like($line, qr/\[error\]/, 'no server_ip is an error');
    is($t->dialog($c, $s, NOOP => '200 okay'), '', 'server not told');
}

# a dozen more than the range has ports, one session

my ($c, $s) = $t->session($server);
my $bad = 0;

for my $i (1 .. 23) {
    my ($near, $far) = $t->active_data($c, $s);
    $far->send("part $i");
    $far->finish;
    $bad++ if $near->rest ne "part $i" || $near->ended ne 'eof';
}

is($bad, 0, 'many transfers');

# many sessions at once

my @open;

for my $i (1 .. 8) {
    my @session = $t->session($server);
    my ($near, $far) = $t->active_data(@session);
    push @open, [@session, $near, $far];
}

for my $i (0 .. $#open) {
    my (undef, undef, $near, $far) = @{ $open[$i] };
    $far->send("to $i");
    $near->send("from $i");
}

for my $i (0 .. $#open) {
    my (undef, undef, $near, $far) = @{ $open[$i] };
    my $to = $near->bytes(4);
    my $from = $far->bytes(6);
    is("$to $from", "to $i from $i", "session $i");
}

$t->done;

sub transfer {
    my ($c, $s, $name, $command, $from, $to, $bytes) = @_;

    $c->command($command);
    is($s->line, "$command\r\n", "$name command");
    $s->send("150 here\r\n");
    is($c->line, "150 here\r\n", "$name begins");

    $from->send($bytes);
    $from->finish;
    ok($to->rest eq $bytes, "$name bytes");
    is($to->ended, 'eof', "$name end");
    $to->close;
    is($from->ended, 'eof', "$name other end");

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name ends");
}
