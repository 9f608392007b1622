#!/usr/bin/perl

# Clients in active mode before servers in passive mode: the proxy dials both,
# the client and the server, when the transfer command comes.

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
    ftp_client_mode active;
    ftp_server_mode passive;
    log_format data '\$remote_addr \$ftp_mode \$ftp_data_port \$ftp_user '
                    '\$ftp_command \$ftp_path \$bytes_sent \$bytes_received '
                    '\$upstream_addr \$status \$ftp_data_status \$ftp_session';

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

    # its listeners have nothing to do with it
    server {
        listen 127.0.0.9:${\$t->range(10, 20)} proxy_protocol;
        ftp_data zone=ftp;
        access_log logs/access.log data;
    }
EOF

my $bytes = join '', map { chr } 0 .. 255;
my $n = 0;

for my $case (
    ['IPv4', 'PORT', 0, '127.0.0.1', $server],
    ['IPv4', 'EPRT', 0, '127.0.0.1', $server],
    ['IPv6', 'EPRT', 1, '::1', $server6],
    ['IPv6 to IPv4', 'EPRT', 2, '::1', $server],
    ['IPv4 to IPv6', 'PORT', 3, '127.0.0.1', $server6],
    ['IPv4 to IPv6', 'EPRT', 3, '127.0.0.1', $server6],
) {
    my ($name, $command, $at, $addr, $to) = @$case;
    my ($c, $s) = $t->session($to, port => $t->port($at), addr => $addr);

    $name = "$name $command";
    is($t->dialog($c, $s, 'USER alice' => '230 in'), '', "$name login");

    for my $size (0, 1, 1200) {
        for my $verb ('RETR', 'STOR') {
            transfer($c, $s, "$name $verb $size", $command, $verb,
                $bytes x $size);
        }
    }

    # 150 before the server has accepted
    transfer($c, $s, "$name LIST", $command, 'LIST', $bytes, early => 1);

    # the client may not ask for what the server does
    $c->command('EPSV');
    like($c->line, qr/\A502 /, "$name EPSV");

    is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
    $s->close;
    is($c->ended, 'eof', "$name end");
}

# a server that does not know EPSV, and one that has nothing to offer

{
    my ($c, $s) = $t->session($server);
    my ($client, $passive) = ($t->server, $t->server(addr => '127.0.0.91'));

    $c->command($t->active_command($client));
    is($s->line, "EPSV\r\n", 'EPSV first');
    $s->send("500 what\r\n");
    is($s->line, "PASV\r\n", 'PASV then');
    $s->send("227 Entering Passive Mode (${\$passive->hostport}).\r\n");
    like($c->line, qr/\A200 /, 'answer of the proxy');
    finish($c, $s, 'PASV', $client, $passive, 'RETR', $bytes);

    $c->command($t->active_command($client, 'EPRT'));
    is($s->line, "PASV\r\n", 'PASV at once');
    $s->send("421 too many\r\n");
    like($c->line, qr/\A42[15] /, 'refused');
    ok(!$client->touched && !$passive->touched, 'nobody dialled');
}

# many at once

my @open;

for my $i (0 .. 7) {
    my ($c, $s) = $t->session($server);
    push @open, [$c, $s, both($c, $s, 'PORT')];
    $c->command("RETR $i");
}

for my $i (0 .. 7) {
    my ($c, $s, $client, $passive) = @{ $open[$i] };
    is($s->line, "RETR $i\r\n", "session $i command");
    push @{ $open[$i] }, $client->accept, $passive->accept;
}

for my $i (0 .. 7) {
    my ($near, $far) = @{ $open[$i] }[4, 5];
    $far->send("to $i");
    $near->send("from $i");
    is($near->bytes(4) . $far->bytes(6), "to ${i}from $i", "session $i");
}

$t->done;

# PORT or EPRT until the client has its answer: where the client and the server
# listen.
sub both {
    my ($c, $s, $command) = @_;

    my $client = $t->server(addr => $c->local_addr);
    my $passive = $t->server(addr => $s->local_addr);

    $c->command($t->active_command($client, $command));

    my $got = $s->line;
    die "server got '$got'\n" if $got ne "EPSV\r\n";

    $s->send("229 Extended (|||${\$passive->port}|)\r\n");
    $got = $c->line;
    die "client got '$got'\n" if $got !~ /\A200 /;

    return ($client, $passive);
}

sub transfer {
    my ($c, $s, $name, $command, $verb, $bytes, %arg) = @_;

    finish($c, $s, $name, both($c, $s, $command), $verb, $bytes, %arg,
        mode => $command);
}

sub finish {
    my ($c, $s, $name, $client, $passive, $verb, $bytes, %arg) = @_;

    ok(!$client->touched && !$passive->touched, "$name not yet");
    $c->command("$verb a file");
    is($s->line, "$verb a file\r\n", "$name command");

    if ($arg{early}) {
        $s->send("150 now\r\n");
        is($c->line, "150 now\r\n", "$name 150");
    }

    my ($near, $far) = ($client->accept, $passive->accept);
    is($near->peer_addr, $c->local_addr, "$name source address");

    if (!$arg{early}) {
        $s->send("150 now\r\n");
        is($c->line, "150 now\r\n", "$name 150");
    }

    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);
    $from->send($bytes);
    $from->finish;
    ok($to->rest eq $bytes, "$name bytes");
    is($to->ended, 'eof', "$name end");
    $to->close;
    is($from->ended, 'eof', "$name other end");

    my $length = length $bytes;
    my ($sent, $received) = $verb eq 'STOR' ? (0, $length) : ($length, 0);
    my $line = ($t->wait_access(++$n))[-1];
    my $at = quotemeta($passive->at);

    like($line, qr/\A\Q${\$c->local_addr}\E $arg{mode} \d+ alice $verb a file $sent $received $at 200 complete [0-9a-f]{16}\z/,
        "$name line") if $arg{mode};

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name 226");
}
