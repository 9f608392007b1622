#!/usr/bin/perl

# How data connections end that the proxy begins on both sides: whichever side
# fails, the other one sees a reset at once, and nothing is left.

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
    ftp_server_mode passive;
    log_format ftp '\$remote_addr \$status \$ftp_data_status \$bytes_sent'
                   ' \$bytes_received';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(13)};
        ftp_data_timeout 2s;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=impatient:1m min_port=${\$t->port(40)} max_port=${\$t->port(45)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 13)};
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

sub logged {
    return ($t->wait_access(++$lines))[-1];
}

# PORT until its answer, for listeners of both.
sub agree {
    my ($c, $s, $client, $passive) = @_;

    $c->command($t->active_command($client));

    my $got = $s->line;
    die "server got '$got'\n" if $got ne "EPSV\r\n";

    $s->send("229 Extended (|||${\$passive->port}|)\r\n");
    $got = $c->line;
    die "client got '$got'\n" if $got !~ /\A200 /;

    return;
}

# The same and a transfer command, which makes the proxy dial.
sub begin {
    my ($c, $s, $client, $passive, $command) = @_;

    agree($c, $s, $client, $passive);
    $c->command($command // 'RETR file');
    $s->line;

    return;
}

sub passive { return $t->server(addr => '127.0.0.91', @_) }

# Both ends of a data connection.
sub data {
    my ($c, $s) = @_;

    my ($client, $passive) = ($t->server, passive());

    begin($c, $s, $client, $passive);

    return ($client->accept, $passive->accept);
}

# A client whose queue of connections is full: SYN is dropped.
sub full {
    my $listener = $t->server(backlog => 1);
    my @fill = map { Test::Nginx::FtpClient->connect(port => $listener->port) }
        1, 2;

    return ($listener, @fill);
}

# The server's answer to the transfer command.
sub reply {
    my ($c, $s, $name, $line) = @_;

    $s->send("$line\r\n");
    is($c->line, "$line\r\n", $name);
}

my ($c, $s) = $t->session($server);

# resets in the middle

for my $bytes ('', 'x', 'x' x 300_000) {
    my $name = length($bytes) . ' bytes';

    # without any bytes it may be reset before it is seen to be connected
    my $log = length $bytes
        ? qr/\A127\.0\.0\.1 200 cut / : qr/\A127\.0\.0\.1 (?:200|502) cut /;

    my ($near, $far) = data($c, $s);
    $far->send($bytes);
    ok($near->bytes(length $bytes) eq $bytes, "reset download $name");
    $far->reset;
    is($near->ended, 'reset', "reset download $name end");
    like(logged(), $log, "reset download $name log");
    reply($c, $s, "reset download $name 426", '426 cut');

    ($near, $far) = data($c, $s);
    $near->send($bytes);
    ok($far->bytes(length $bytes) eq $bytes, "reset upload $name");
    $near->reset;
    is($far->ended, 'reset', "reset upload $name end");
    like(logged(), $log, "reset upload $name log");
    reply($c, $s, "reset upload $name 426", '426 cut');
}

# the client does not listen: the server is dialled and reset, so that it can
# tell

{
    my ($client, $passive) = ($t->server, passive());
    agree($c, $s, $client, $passive);
    $client->close;
    my $line = $t->new_log(qr/ftp client does not listen/, sub {
        $c->command('RETR file');
        is($s->line, "RETR file\r\n", 'client does not listen');
        is($passive->accept->ended, 'reset', 'server reset');
    });
    like($line, qr/\[info\].*refused.*while connecting to client/,
        'client does not listen log');
    like(logged(), qr/ cut 0 0\z/, 'client does not listen status');
    reply($c, $s, 'client does not listen 425', '425 no connection');
}

# the server does not: the client is reset

{
    my ($client, $passive) = ($t->server, passive());
    agree($c, $s, $client, $passive);
    $passive->close;
    $c->command('RETR file');
    is($s->line, "RETR file\r\n", 'server does not listen');
    is($client->accept->ended, 'reset', 'client reset');
    like(logged(), qr/ 502 cut 0 0\z/, 'server does not listen status');
    reply($c, $s, 'server does not listen 425', '425 no connection');
}

# a slow client, one that is too slow, and a transfer that stalls

{
    my ($client, @fill) = full();
    my $passive = passive();
    begin($c, $s, $client, $passive);
    $client->accept->close for @fill;
    my ($near, $far) = ($client->accept, $passive->accept);
    $far->send('late');
    $far->finish;
    is($near->rest, 'late', 'slow client');
    is($near->ended, 'eof', 'slow client end');
    like(logged(), qr/ 200 complete 4 0\z/, 'slow client log');
    reply($c, $s, 'slow client 226', '226 done');

    my ($c, $s) = $t->session($server, port => $t->port(1));
    ($client, @fill) = full();
    $passive = passive();
    my $line = $t->new_log(qr/ftp client does not listen/, sub {
        begin($c, $s, $client, $passive);
        is($passive->accept->ended, 'reset', 'too slow client');
    });
    like($line, qr/timed out/, 'too slow client log');
    like(logged(), qr/ cut 0 0\z/, 'too slow client status');
    reply($c, $s, 'too slow client 425', '425 no connection');

    ($near, $far) = data($c, $s);
    $far->send('part');
    is($near->bytes(4), 'part', 'before timeout');
    is($near->ended, 'reset', 'timeout client');
    is($far->ended, 'reset', 'timeout server');
    like(logged(), qr/ 200 cut 4 0\z/, 'timeout log');
}

# nothing is dialled for what was given up

{
    my ($client, $passive) = ($t->server, passive());
    agree($c, $s, $client, $passive);
    is($t->dialog($c, $s, 'USER other' => '230 in', 'LIST' => '425 PORT first'),
        '', 'USER');

    agree($c, $s, $client, $passive);
    my ($client2, $passive2) = ($t->server, passive());
    begin($c, $s, $client2, $passive2);
    my ($near, $far) = ($client2->accept, $passive2->accept);
    $far->send('second');
    $far->finish;
    is($near->rest, 'second', 'second PORT');
    logged();
    reply($c, $s, 'second PORT 226', '226 done');
    is($t->dialog($c, $s, 'LIST' => '425 PORT first'), '', 'once only');
    ok(!$client->touched && !$passive->touched, 'first PORT');
    ok(!$client2->touched && !$passive2->touched, 'once only, nobody dialled');
}

# nor for what has waited too long, which the log tells: the server is not to wait for nothing

{
    my ($client, $passive) = ($t->server, passive());
    agree($c, $s, $client, $passive);
    my ($held) = ($t->lines(qr/ftp reserved port/))[-1] =~ /port (\d+) /;
    my ($c2, $s2) = $t->session($server);
    my $expired = sub { $t->lines(qr/ftp expired port $held\b/) };

    # any reservation looks at others
    $t->wait_for('expiry', sub {
        my ($near, $far) = data($c2, $s2);
        $_->close for $near, $far;
        logged();
        $s2->send("426 cut\r\n");
        $c2->line;
        return $expired->();
    });

    my $line = $t->new_log(qr/ftp refused port $held: not reserved/, sub {
        $c->command('LIST');
        like($c->line, qr/\A425 /, 'expired');
        is($t->dialog($c, $s, 'NOOP' => '200 okay'), '', 'expired, server');
    });
    ok($line, 'expired logged');
    ok(!$client->touched && !$passive->touched, 'expired, nobody dialled');
}

# a port that stands for such a connection is no way in

{
    my ($client, $passive) = ($t->server, passive());
    agree($c, $s, $client, $passive);
    my ($port) = ($t->lines(qr/ftp reserved port/))[-1] =~ /port (\d+) /;
    is($c->data($port)->ended, 'reset', 'its number');
    like(logged(), qr/ 403 refused /, 'its number log');
    ok(!$passive->touched, 'its number, nobody dialled');
}

# the control connection ends while the client is dialled: it is dialled on

{
    my ($c, $s) = $t->session($server);
    my ($client, @fill) = full();
    my $passive = passive();
    begin($c, $s, $client, $passive);
    $c->close;
    $s->ended;
    $client->accept->close for @fill;
    my ($near, $far) = ($client->accept, $passive->accept);
    $far->send('alone');
    $far->finish;
    is($near->rest, 'alone', 'no control connection');
    is($near->ended, 'eof', 'no control connection end');
    logged();
}

# a reload between PORT and the transfer

{
    my ($c, $s) = $t->session($server);
    my ($client, $passive) = ($t->server, passive());
    agree($c, $s, $client, $passive);
    $t->reload($conf, main => 'worker_shutdown_timeout 1s;');
    $c->command('RETR file');
    $s->line;
    my ($near, $far) = ($client->accept, $passive->accept);
    $far->send('reloaded');
    $far->finish;
    is($near->rest, 'reloaded', 'over a reload');
    is($near->ended, 'eof', 'over a reload end');
    logged();
    $_->close for $c, $s;
}

$_->close for $c, $s;
$t->wait_for('the old workers to end', sub { $t->workers == 2 });

# a worker that is killed in a transfer, and one while it dials

for my $way ('transfer', 'dialling') {
    my ($c, $s) = $t->session($server);
    my $worker = $t->worker_of($c);

    if ($way eq 'transfer') {
        my ($near, $far) = data($c, $s);
        $far->send('part');
        is($near->bytes(4), 'part', 'before kill');
        $t->kill_worker($worker);
        is($near->ended, 'reset', 'killed client');
        is($far->ended, 'reset', 'killed server');

    } else {
        my ($client, @fill) = full();
        my $passive = passive();
        begin($c, $s, $client, $passive);
        $t->kill_worker($worker);
        ok(!$passive->touched, 'killed while dialling');
    }
}

# what it held is free: the whole range

my @open;

for my $n (1 .. 4) {
    my ($c, $s) = $t->session($server);
    my ($client, $passive) = ($t->server, passive());

    $t->wait_for('a port', sub {
        $c->command($t->active_command($client));
        $s->line;
        $s->send("229 Extended (|||${\$passive->port}|)\r\n");
        return $c->line =~ /\A200 /;
    });

    push @open, [$c, $s, $client, $passive];
}

is(scalar @open, 4, 'every port is free');

# a worker leaves while it dials, and in a transfer

{
    my ($c, $s) = splice @{ shift @open };
    my ($near, $far) = data($c, $s);
    $far->send('part');
    is($near->bytes(4), 'part', 'before shutdown');
    my ($c2, $s2) = splice @{ shift @open };
    my ($client, @fill) = full();
    my $passive = passive();
    begin($c2, $s2, $client, $passive);
    $t->reload;
    is($near->ended, 'reset', 'shutdown client');
    is($far->ended, 'reset', 'shutdown server');
    ok(!$passive->touched, 'shutdown while dialling');
}

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by \d+/);
