#!/usr/bin/perl

# How active data connections end: what is cut on one leg is reset on the
# other, also while the client is still being dialled, and nothing hangs.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

my $conf = <<"EOF";
    ftp_client_mode any;
    log_format ftp '\$remote_addr \$status \$ftp_data_status \$bytes_sent'
                   ' \$bytes_received';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(30)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=impatient:1m min_port=${\$t->port(40)} max_port=${\$t->port(45)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 30)};
        ftp_data zone=ftp;
        access_log logs/access.log ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(40, 45)};
        ftp_data zone=impatient;
        proxy_connect_timeout 500ms;
        proxy_timeout 500ms;
        access_log logs/access.log ftp;
    }
EOF

$t->run($conf, main => 'worker_shutdown_timeout 1s;');

my $lines = 0;

# The next line of the access log.
sub logged {
    return ($t->wait_access(++$lines))[-1];
}

my ($c, $s) = $t->session($server);

# resets in the middle

for my $bytes ('', 'x', 'x' x 300_000) {
    my $name = length($bytes) . ' bytes';

    # without any bytes it may be reset before it is seen to be connected
    my $log = length $bytes
        ? qr/\A127\.0\.0\.1 200 cut / : qr/\A127\.0\.0\.1 (?:200|502) cut /;

    my ($near, $far) = $t->active_data($c, $s);
    $far->send($bytes);
    ok($near->bytes(length $bytes) eq $bytes, "reset download $name");
    $far->reset;
    is($near->ended, 'reset', "reset download $name end");
    like(logged(), $log, "reset download $name log");

    ($near, $far) = $t->active_data($c, $s, 'EPRT');
    $near->send($bytes);
    ok($far->bytes(length $bytes) eq $bytes, "reset upload $name");
    $near->reset;
    is($far->ended, 'reset', "reset upload $name end");
    like(logged(), $log, "reset upload $name log");
}

# the reader gives up

my ($near, $far) = $t->active_data($c, $s);
$far->send('x' x 100_000);
$near->bytes(10);
$near->reset;
is($far->ended, 'reset', 'client gives up');
logged();

($near, $far) = $t->active_data($c, $s);
$near->send('x' x 100_000);
$far->bytes(10);
$far->reset;
is($near->ended, 'reset', 'server gives up');
logged();

# the server ends while much of an upload is under way: the client sees a cut

my @told = $t->active($c, $s, my $listener = $t->server);
$far = $t->dial($s, @told, rcvbuf => 4096);
$near = $listener->accept;
my $total = 0;
while (my $n = $near->write_some('x' x 65536)) { $total += $n }
$far->bytes(10);
$far->finish;
is($near->ended, 'reset', 'early end client');
cmp_ok(length $far->rest, '<', $total, 'early end bytes');
is($far->{end}, 'reset', 'early end server');
logged();

# nobody listens: the server sees it at once, and can tell

$listener = $t->server;
@told = $t->active($c, $s, $listener);
$listener->close;
my $line = $t->new_log(qr/ftp client does not listen/, sub {
    $far = $t->dial($s, @told);
    is($far->ended, 'reset', 'client does not listen');
});
like($line, qr/\[info\].*refused.*while connecting to client/,
    'client does not listen log');
like(logged(), qr/ 502 cut 0 0\z/, 'client does not listen status');
is($t->dialog($c, $s, 'RETR file' => '425 no connection'), '',
    'control lives');

# A client whose queue of connections is full: SYN is dropped.  Returns its
# listener and what fills the queue.
sub full {
    my $listener = $t->server(backlog => 1);

    # the kernel takes one more than that
    my @fill = map { Test::Nginx::FtpClient->connect(port => $listener->port) }
        1, 2;

    return ($listener, @fill);
}

# The server dials that, and nginx the client.
sub dialling {
    my (@told) = @_;

    my $far;

    $t->new_log(qr/ftp matched port $told[1], /, sub {
        $far = $t->dial($s, @told);
    });

    return $far;
}

# slow: SYN comes again after a second

{
    ($listener, my @fill) = full();
    @told = $t->active($c, $s, $listener);
    $far = dialling(@told);
    $far->send('early');
    $listener->accept->close for @fill;
    $near = $listener->accept;
    is($near->bytes(5), 'early', 'slow client');
    $far->finish;
    is($near->ended, 'eof', 'slow client end');
    like(logged(), qr/ 200 complete 5 0\z/, 'slow client log');
}

# too slow

{
    my ($c, $s) = $t->session($server, port => $t->port(1));
    ($listener, my @fill) = full();
    @told = $t->active($c, $s, $listener);
    my $line = $t->new_log(qr/ftp client does not listen/, sub {
        $far = $t->dial($s, @told);
        is($far->ended, 'reset', 'too slow client');
    });
    like($line, qr/timed out/, 'too slow client log');
    like(logged(), qr/ 502 cut 0 0\z/, 'too slow client status');

    # and nothing happens on a connection

    my ($near, $far) = $t->active_data($c, $s);
    $far->send('part');
    is($near->bytes(4), 'part', 'before timeout');
    is($near->ended, 'reset', 'timeout client');
    is($far->ended, 'reset', 'timeout server');
    like(logged(), qr/ 200 cut 4 0\z/, 'timeout log');
}

# the server gives up while the client is dialled

{
    ($listener, my @fill) = full();
    @told = $t->active($c, $s, $listener);
    $far = dialling(@told);
    $t->new_log(qr/ftp server has reset its data connection/, sub {
        $far->reset;
    });
    like(logged(), qr/ 502 cut 0 0\z/, 'server gives up first');
}

# and gets no answer for a port that is no longer reserved

{
    my ($addr, $port) = $t->active($c, $s, $listener = $t->server);
    is($t->dialog($c, $s, 'USER other' => '331 password'), '', 'USER');
    is($t->dial($s, $addr, $port)->ended, 'reset', 'given back');
    like(logged(), qr/ 403 refused 0 0\z/, 'given back status');
    ok(!$listener->touched, 'given back, client untouched');
}

# the control connection ends: the transfer goes on, a waiting port is free

{
    my ($c, $s) = $t->session($server);
    my ($near, $far) = $t->active_data($c, $s);
    my ($addr, $port) = $t->active($c, $s, $listener = $t->server);
    my $bound = $s->local_addr;
    $s->close;
    is($c->ended, 'eof', 'control ends');
    $far->send('rest');
    $far->finish;
    is($near->rest, 'rest', 'transfer goes on');
    is($near->ended, 'eof', 'transfer ends');
    logged();
    is(Test::Nginx::FtpClient->connect(addr => $addr, port => $port,
        bind => $bound)->ended, 'reset', 'waiting port');
    logged();
    ok(!$listener->touched, 'client untouched');
}

# workers leave: with a transfer, and while a client is dialled

{
    my ($near, $far) = $t->active_data($c, $s);
    $far->send('part');
    is($near->bytes(4), 'part', 'before shutdown');
    ($listener, my @fill) = full();
    @told = $t->active($c, $s, $listener);
    my $parked = dialling(@told);
    $t->reload($conf, main => 'worker_shutdown_timeout 1s;');
    is($near->ended, 'reset', 'shutdown client');
    is($far->ended, 'reset', 'shutdown server');
    is($parked->ended, 'reset', 'shutdown while dialling');
}

$t->done;
