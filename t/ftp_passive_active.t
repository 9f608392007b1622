#!/usr/bin/perl

# Clients in passive mode before servers in active mode: both dial the proxy,
# in whatever order and whatever worker.

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
    ftp_server_mode active;
    log_format data '\$remote_addr \$ftp_mode \$ftp_data_port \$ftp_user '
                    '\$ftp_command \$ftp_path \$bytes_sent \$bytes_received '
                    '\$upstream_addr \$status \$ftp_data_status \$ftp_session';
    map \$ftp_data_status \$whole { default 1; "handed over" 0; }

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
        ftp_ctrl zone=ftp server_ip=::1;
        proxy_pass ${\$server6->at};
    }

    server {
        listen ${\$t->range(10, 20)};
        listen [::1]:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        access_log logs/access.log data if=\$whole;
        access_log logs/all.log data;
    }
EOF

my @workers = $t->workers;
my $bytes = join '', map { chr } 0 .. 255;
my $n = 0;

for my $case (
    ['IPv4', 'PASV', 0, '127.0.0.1', $server],
    ['IPv4', 'EPSV', 0, '127.0.0.1', $server],
    ['IPv6', 'EPSV', 1, '::1', $server6],
    ['IPv6 to IPv4', 'EPSV', 2, '::1', $server],
    ['IPv4 to IPv6', 'PASV', 3, '127.0.0.1', $server6],
    ['IPv4 to IPv6', 'EPSV', 3, '127.0.0.1', $server6],
) {
    my ($name, $command, $at, $addr, $to) = @$case;
    my ($c, $s) = $t->session($to, port => $t->port($at), addr => $addr);

    $name = "$name $command";
    is($t->dialog($c, $s, 'USER alice' => '230 in'), '', "$name login");

    for my $size (0, 1, 1200) {
        for my $verb ('RETR', 'STOR') {
            for my $first ('client', 'server') {
                transfer($c, $s, "$name $verb $size $first first", $command,
                    $verb, $bytes x $size, $first);
            }
        }
    }

    $c->command('PORT 127,0,0,1,200,200');
    like($c->line, qr/\A50[0-9] /, "$name PORT");

    is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
    $s->close;
    is($c->ended, 'eof', "$name end");
}

is(scalar(grep { / handed over / } $t->wait_access(2 * $n, 'logs/all.log')), $n,
    'a line for each of the server, too');

# bytes and ends that are there before the other side has come

{
    my ($c, $s) = $t->session($server);

    for my $verb ('RETR', 'STOR') {
        my ($port, @told) = agree($c, $s, 'EPSV');
        $c->command("$verb early");
        $s->line;

        my ($near, $far);

        if ($verb eq 'RETR') {
            $far = $t->dial($s, @told, before => $bytes);
            $far->finish;
            $near = $c->data($port);
            is($near->rest, $bytes, "early $verb bytes");
            is($near->ended, 'eof', "early $verb end");

        } else {
            $near = $c->data($port, before => $bytes);
            $near->finish;
            $far = $t->dial($s, @told);
            is($far->rest, $bytes, "early $verb bytes");
            is($far->ended, 'eof', "early $verb end");
        }

        $s->send("226 done\r\n");
        is($c->line, "226 done\r\n", "early $verb 226");
    }
}

# every pair of workers, in either order

for my $near_worker (@workers) {
    for my $far_worker (@workers) {
        for my $first ('client', 'server') {
            my $name = join ' ', 'workers',
                (map { $_ == $workers[0] ? 0 : 1 } $near_worker, $far_worker),
                "$first first";
            my ($c, $s) = $t->session($server);
            my ($port, @told) = agree($c, $s, 'PASV');
            my ($near, $far);

            my $dial_near = sub {
                $near = $t->only_worker($near_worker, sub {
                    my $conn = $c->data($port);
                    $t->worker_of($conn);
                    return $conn;
                });
            };
            my $dial_far = sub {
                $t->only_worker($far_worker, sub {
                    $t->new_log(qr/ftp matched port $told[1], /, sub {
                        $far = $t->dial($s, @told);
                    });
                });
            };

            $_->() for $first eq 'client'
                ? ($dial_near, $dial_far) : ($dial_far, $dial_near);

            $far->send('down');
            is($near->bytes(4), 'down', "$name download");
            $near->send('up');
            is($far->bytes(2), 'up', "$name upload");
            is($t->worker_of($far), $near_worker, "$name one worker");
            $near->finish;
            is($far->ended, 'eof', "$name end");
            $s->send("226 done\r\n");
        }
    }
}

# many at once

my @open;

for my $i (0 .. 4) {
    my ($c, $s) = $t->session($server);
    my ($port, @told) = agree($c, $s, 'PASV');
    push @open, [$c, $s, $port, @told];
}

push @$_, $_->[0]->data($_->[2]) for @open;
push @{ $open[$_] }, $t->dial(@{ $open[$_] }[1, 3, 4]) for reverse 0 .. 4;

for my $i (0 .. 4) {
    my ($near, $far) = @{ $open[$i] }[5, 6];
    $far->send("to $i");
    $near->send("from $i");
    is($near->bytes(4) . $far->bytes(6), "to ${i}from $i", "session $i");
}

$t->done;

# PASV or EPSV until the client has its answer: the port that it is told, and
# what the server is told.
sub agree {
    my ($c, $s, $command) = @_;

    $c->command($command);

    my @told = $t->told($s->line);

    $s->send("200 okay\r\n");

    my $reply = $c->line;
    my $port = $c->passive_port($reply) or die "client got '$reply'\n";

    return ($port, @told);
}

sub transfer {
    my ($c, $s, $name, $command, $verb, $bytes, $first) = @_;

    my ($port, @told) = agree($c, $s, $command);

    ok($t->in_range($_, 10, 20), "$name port in range") for $port, $told[1];

    my ($near, $far);

    $near = $c->data($port) if $first eq 'client';
    $c->command("$verb a file");
    is($s->line, "$verb a file\r\n", "$name command");
    $s->send("150 now\r\n");
    is($c->line, "150 now\r\n", "$name 150");
    $far = $t->dial($s, @told);
    $near //= $c->data($port);

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

    like($line, qr/\A\Q${\$c->local_addr}\E $command $port alice $verb a file $sent $received \S+ 200 complete [0-9a-f]{16}\z/,
        "$name line");

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name 226");
}
