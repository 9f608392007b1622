#!/usr/bin/perl

# The proxy's hello toward the server of a data connection comes behind the
# transfer command, as most clients have it: some servers reset a connection on
# which bytes come before.  Where no command comes it is not kept for long.

use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpLegs;
use Test::Nginx::FtpTls;

# Seconds that the hello is kept at least where no command comes.
my $kept = 0.9;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my %serve = (cert => ["$dir/server.crt", "$dir/server.key"]);
my $n = 0;

sub ctrl {
    my ($more) = @_;

    return "server { listen 127.0.0.1:${\$t->port($n++)} $more"
        . " ftp_ctrl zone=ftp:1m min_port=${\$t->port(20)} max_port=${\$t->port(39)};"
        . " proxy_pass ${\$server->at}; }\n";
}

my $control = join '',
    ctrl('; ftp_auth_tls on;'),                                         # 0
    ctrl('ssl;'),                                                       # 1
    ctrl('; ftp_client_mode any; ftp_server_mode active;'),             # 2
    ctrl('; ftp_client_mode any; ftp_server_mode client;');             # 3

my $conf = <<"EOF";
    $certificates
    proxy_ssl on;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate $dir/ca.crt;
    proxy_ssl_name server;
    log_format data '\$ftp_command \$bytes_received \$bytes_sent \$ftp_data_status';
    $control
    server {
        listen 127.0.0.1:${\$t->range(20, 39)};
        ftp_data zone=ftp;
        access_log logs/access.log data;
        proxy_connect_timeout 500ms;
    }
EOF

$t->run($conf);

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $server,
    serve  => \%serve,
    ports  => { plain => 0, explicit => 0, implicit => 1 },
);

my $lines = 0;

for my $kind ('plain', 'explicit', 'implicit') {
    my ($c, $s) = $legs->ready($kind, $kind);
    my $private = $kind ne 'plain';

    # the hello behind the command, and a transfer to its end

    for my $verb ('RETR', 'STOR') {
        my ($near, $far) = unhurried("$kind $verb", $c, $s, 'EPSV');

        transfer("$kind $verb", $c, $s, $near, $far, $verb, $private);
        is(logged(), "$verb " . ($verb eq 'RETR' ? '0 4' : '4 0') . ' complete',
            "$kind $verb, log");
    }

    # a client that sends its command behind its own handshake only, and one
    # that has sent everything by then

    if ($private) {
        for my $early ('', 'data') {
            my $name = "$kind hurries" . ($early && ', bytes too');
            my ($near, $far) = data($c, $s, 'EPSV');

            ok($tls->secure($near), "$name, client TLS");
            $near->send($early) if $early;
            $near->finish if $early;
            command($name, $c, $s, 'STOR');
            secure($name, $far);
            $near->send('data') unless $early;
            $near->finish unless $early;
            is($far->rest, 'data', "$name, bytes");
            is($far->{end}, 'eof', "$name, end");
            complete($name, $c, $s);
            is(logged(), 'STOR 4 0 complete', "$name, log");
        }
    }

    # no command, with a connect timeout that is shorter than the wait

    my ($near, $far) = data($c, $s, 'EPSV');

    ok($tls->secure($near), "$kind no command, client TLS") if $private;
    secure("$kind no command", $far);
    $far->send('data');
    $far->finish;
    is($near->rest, 'data', "$kind no command, bytes");
    like(logged(), qr/^- 0 4 (complete|cut)$/, "$kind no command, log");

    # whoever leaves before the command: the server, and the client

    for my $how ('close', 'reset') {
        my $name = "$kind server leaves by $how";

        ($near, $far) = data($c, $s, 'EPSV');
        $tls->prepare($near) if $private;
        $far->$how;
        is($near->ended, 'reset', $name);
        is(logged(), '- 0 0 cut', "$name, log");
    }

    ($near, $far) = data($c, $s, 'EPSV');
    $near->reset;
    ok($far->ended, "$kind client leaves");
    is(logged(), '- 0 0 cut', "$kind client leaves, log");

    # nobody listens

    my $listener = $t->server(addr => $s->local_addr);
    my $reply = $t->passive($c, $s, $listener, 'EPSV');
    $listener->close;

    my $blamed = $t->lines('before any transfer command');
    is($c->data($c->passive_port($reply))->ended, 'reset', "$kind nobody listens");
    is(logged(), '- 0 0 cut', "$kind nobody listens, log");
    is($t->lines('before any transfer command'), $blamed + 1,
        "$kind nobody listens, error line");
}

# a server in active mode: it has connected, and the hello waits

for my $port (2, 3) {
    my $name = $port == 2 ? 'PASV to active' : 'PORT';
    my ($c, $s) = $legs->session('plain', port => $port);
    $legs->login($c, $s, $name, '200 private');

    my ($near, $far) = unhurried($name, $c, $s, $port == 3 ? 'PORT' : 'PASV');
    transfer($name, $c, $s, $near, $far, 'RETR', 0);
}

# the worker ends meanwhile: it waits, or has no time to

{
    my ($c, $s) = $legs->ready('explicit', 'end');
    my ($near, $far) = data($c, $s, 'EPSV');
    ok($tls->secure($near), 'end, client TLS');
    $t->reload;
    command('end', $c, $s, 'RETR');
    secure('end', $far);
    $far->send('data');
    $far->finish;
    is($near->rest, 'data', 'end, bytes');
    complete('end', $c, $s);
}

my @no_time = ($conf, main => 'worker_shutdown_timeout 100ms;');

$t->reload(@no_time);

for my $kind ('plain', 'explicit') {
    my ($c, $s) = $legs->ready($kind, "$kind no time");
    my ($near, $far) = data($c, $s, 'EPSV');

    $tls->prepare($near)->send_raw(substr $near->hello, 0, 50) if $kind ne 'plain';
    $t->reload(@no_time);
    is($near->ended, 'reset', "$kind no time, client's end");
    ok($far->ended, "$kind no time, server's end");
}

$t->done;

# A data connection without a command: the client's end, the server's.
sub data {
    my ($c, $s, $command) = @_;

    if ($command eq 'PORT' || $command eq 'PASV') {
        my $client = $command eq 'PORT' && $t->server;

        $c->command($client ? $t->active_command($client) : $command);

        my @told = $t->told($s->line);
        $s->send("200 okay\r\n");

        my $reply = $c->line;
        my $far = $t->dial($s, @told);

        return ($client->accept, $far) if $client;

        return ($c->data($c->passive_port($reply)), $far);
    }

    my $listener = $t->server(addr => $s->local_addr);
    my $reply = $t->passive($c, $s, $listener, $command);
    my $near = $c->data($c->passive_port($reply));

    return ($near, $listener->accept);
}

# The same, on which the server sees nothing for as long as three replies take;
# again, where the machine needs more time for them than the hello waits.
sub unhurried {
    my ($name, $c, $s, $command) = @_;

    for (1 .. 20) {
        my $began = time;
        my ($near, $far) = data($c, $s, $command);
        my $bad = join '',
            map { $t->dialog($c, $s, NOOP => '200 okay') } 1 .. 3;
        my $seen = $far->waiting;

        if (time - $began < $kept) {
            is($bad, '', "$name, replies");
            is($seen, '', "$name, no hello before the command");
            return ($near, $far);
        }

        $_->reset for $near, $far;
        logged();
    }

    die "$name: too slow a machine\n";
}

sub command {
    my ($name, $c, $s, $verb) = @_;

    $c->command("$verb f");
    is($s->line, "$verb f\r\n", "$name, command");
    $s->send("150 now\r\n");
    is($c->line, "150 now\r\n", "$name, 150");

    return;
}

sub complete {
    my ($name, $c, $s) = @_;

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name, 226");

    return;
}

sub secure {
    my ($name, $far) = @_;

    $tls->serve($far, %serve, mute => 1);
    ok($far->handshake, "$name, server TLS");

    return;
}

sub transfer {
    my ($name, $c, $s, $near, $far, $verb, $private) = @_;

    command($name, $c, $s, $verb);
    secure($name, $far);
    ok($tls->secure($near), "$name, client TLS") if $private;

    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);

    $from->send('data');
    $from->finish;
    is($to->rest, 'data', "$name, bytes");
    is($to->{end}, 'eof', "$name, end");
    complete($name, $c, $s);

    return;
}

# The next line of the data server.
sub logged {
    $t->wait_access(++$lines);

    return (split /\n/, $t->read_file('logs/access.log'))[$lines - 1];
}
