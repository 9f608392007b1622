#!/usr/bin/perl

# TLS in active mode, and between the modes: each leg as its control connection
# has agreed.  The FTP client is the TLS client, whoever dials (RFC 4217 7).

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new(seconds => 240);
my $server = $t->server(addr => '127.0.0.91');
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] }
    'server', 'client', 'stranger';

# mode of the client and of the server
my @pairs = ('active active', 'active passive', 'passive active');

# ports: client explicit or implicit, server plain or TLS, modes
my $n = 0;
my (%port, $control);

for my $pair (@pairs) {
    my ($mode) = $pair =~ / (.*)/;

    for my $far ('plain', 'tls') {
        for my $near ('explicit', 'implicit') {
            my ($ssl, $auth) = $near eq 'implicit'
                ? ('ssl', '') : ('', 'ftp_auth_tls on;');
            my $to = $far eq 'tls' ? 'proxy_ssl on;' : '';

            $port{"$near $far $pair"} = $t->port($n);
            $control .= <<"END";
    server {
        listen 127.0.0.1:${\$t->port($n++)} $ssl;
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(30)} max_port=${\$t->port(50)};
        ftp_server_mode $mode;
        $auth
        $to
        proxy_pass ${\$server->at};
    }
END
        }
    }
}

$t->run(<<"EOF");
    $certificates
    ftp_client_mode any;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate $dir/ca.crt;
    proxy_ssl_name server;
    proxy_ssl_server_name on;
    $control
    server {
        listen 127.0.0.1:${\$t->range(30, 50)};
        ftp_data zone=ftp;
        proxy_timeout 5s;
    }
EOF

my $bytes = join('', map { chr } 0 .. 255) x 1000;

# A control connection after its login: of a plain, explicit or implicit
# client, to a plain or TLS server.
sub session {
    my ($near, $far, $pair) = @_;

    my $kind = $near eq 'implicit' ? 'implicit' : 'explicit';
    my $c = $tls->connect(port => $port{"$kind $far $pair"});

    $tls->secure($c) or die "no handshake\n" if $near eq 'implicit';

    my $s = $far eq 'tls'
        ? $tls->accept($server, cert => $cert{server}) : $server->accept;

    $s->send("220 ready\r\n");
    my $greeting = $c->line;
    die "no greeting but '$greeting'\n" if $greeting ne "220 ready\r\n";

    $tls->auth($c) if $near eq 'explicit';
    is($t->dialog($c, $s, 'USER u' => '230 in'), '', "$near $far login");

    # the proxy's own
    if ($far eq 'tls') {
        for my $command ('PBSZ 0', $near eq 'explicit' ? 'PROT C' : 'PROT P') {
            is($s->line, "$command\r\n", "$near $far own $command");
            $s->send("200 okay\r\n");
        }
    }

    return ($c, $s);
}

# PROT of the client.
sub protect {
    my ($c, $s, $far, $level) = @_;

    return $c->protect($level) if $far eq 'plain';

    return $t->dialog($c, $s, 'PBSZ 0' => '200 PBSZ=0',
        "PROT $level" => '200 okay');
}

# A data connection and its transfer command: the client's end, the server's.
sub data {
    my ($c, $s, $pair, $command, $verb) = @_;

    $command //= 'PORT';
    $verb //= 'RETR';

    my ($client, $passive, @told);

    if ($pair =~ /^active/) {
        $client = $t->server;
        $c->command($t->active_command($client, $command));

    } else {
        $c->command($command);
    }

    my $line = $s->line;

    if ($line =~ /^EPSV/) {
        $passive = $t->server(addr => $s->local_addr);
        $s->send("229 Extended (|||${\$passive->port}|)\r\n");

    } else {
        @told = $t->told($line);
        $s->send("200 okay\r\n");
    }

    my $reply = $c->line;
    die "client got '$reply'\n" if $reply !~ /\A2/;

    my $near = $client ? undef : $c->data($c->passive_port($reply));

    $c->command("$verb f");
    $line = $s->line;
    die "server got '$line'\n" if $line ne "$verb f\r\n";

    my $far = $passive ? undef : $t->dial($s, @told);

    return ($near // $client->accept, $far // $passive->accept);
}

sub transfer {
    my ($c, $s, $name, $pair, $client_tls, $server_tls, $command, $verb) = @_;

    $name = "$pair, $name $command $verb";

    my ($near, $far) = data($c, $s, $pair, $command, $verb);

    $s->send("150 now\r\n");
    is($c->line, "150 now\r\n", "$name 150");

    if ($server_tls) {
        $tls->serve($far, cert => $cert{server}, mute => 1);
        ok($far->handshake, "$name server TLS");
        is($far->server_name, 'server', "$name SNI");
    }

    ok($tls->secure($near), "$name client TLS") if $client_tls;

    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);

    $from->send($bytes);
    $from->finish;
    ok($to->rest eq $bytes, "$name bytes");
    is($to->{end}, 'eof', "$name end");
    is($from->ended, 'eof', "$name other end");

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name 226");

    return;
}

sub commands { return $_[0] =~ /^active/ ? ('PORT', 'EPRT') : ('PASV', 'EPSV') }

for my $pair (@pairs) {
    for my $near ('plain', 'explicit', 'implicit') {
        for my $far ('plain', 'tls') {
            my ($c, $s) = session($near, $far, $pair);
            my @levels = $near eq 'plain' ? ('-') : ('P', 'C');

            for my $level (@levels) {
                my $name = "$near $far $level";

                is(protect($c, $s, $far, $level), '', "$pair, $name PROT")
                    if $level ne '-';

                my @tls = ($level eq 'P', $far eq 'tls' && $level ne 'C');

                for my $command (commands($pair)) {
                    transfer($c, $s, $name, $pair, @tls, $command, $_)
                        for 'RETR', 'STOR';
                }
            }

            $_->close for $c, $s;
        }
    }

    broken($pair);
}

# the client is told of the end when TCP has come to it, and then its handshake
# begins, as with a server that dials it

for my $pair (grep { /^active/ } @pairs) {
    for my $near ('explicit', 'implicit') {
        for my $far ('plain', 'tls') {
            my ($c, $s) = session($near, $far, $pair);
            is(protect($c, $s, $far, 'P'), '', "$pair $near $far, late PROT");
            late($c, $s, "$pair $near $far, late", $far eq 'tls');
        }
    }
}

$t->done;

# The proxy dials a client that does not accept yet.
sub late {
    my ($c, $s, $name, $server_tls) = @_;

    my $client = $t->server(backlog => 1);
    my @fill = map { Test::Nginx::FtpClient->connect(port => $client->port) }
        1, 2;

    $c->command($t->active_command($client));

    my $line = $s->line;
    my ($passive, @told);

    if ($line =~ /^EPSV/) {
        $passive = $t->server(addr => $s->local_addr);
        $s->send("229 Extended (|||${\$passive->port}|)\r\n");

    } else {
        @told = $t->told($line);
        $s->send("200 okay\r\n");
    }

    like($c->line, qr/\A200 /, "$name 200");
    $c->command('RETR f');
    is($s->line, "RETR f\r\n", "$name RETR");

    my $far = $passive ? undef : $t->dial($s, @told);

    $s->send("150 now\r\n226 done\r\n");
    is($c->line, "150 now\r\n", "$name 150");
    $s->taken;
    $c->command('NOOP');
    is($s->line, "NOOP\r\n", "$name NOOP");
    is($c->waiting, '', "$name nothing yet");

    $_->close for map { $client->accept } @fill;

    my $near = $client->accept;
    is($c->line, "226 done\r\n", "$name 226");

    $far //= $passive->accept;

    if ($server_tls) {
        $tls->serve($far, cert => $cert{server}, mute => 1);
        ok($far->handshake, "$name server TLS");
    }

    ok($tls->secure($near), "$name client TLS");
    $far->send($bytes);
    $far->finish;
    ok($near->rest eq $bytes, "$name bytes");
    $near->close;
    $far->rest;

    $s->send("200 fine\r\n");
    is($c->line, "200 fine\r\n", "$name next reply");
    $_->close for $c, $s;

    return;
}

# What goes wrong: nothing of it becomes a transfer.
sub broken {
    my ($pair) = @_;

    my $command = (commands($pair))[0];

    # a client that does not speak TLS, and one that says nothing

    my ($c, $s) = session('explicit', 'plain', $pair);
    is(protect($c, $s, 'plain', 'P'), '', "$pair, broken PROT");

    my ($near, $far) = after($c, $s, $pair, $command);
    $near->send('STOR in clear');
    like($near->ended, qr/^reset/, "$pair, no TLS: client");
    is($far->ended, 'reset', "$pair, no TLS: server");

    ($near, $far) = after($c, $s, $pair, $command);
    $far->send('secret');
    $near->finish;
    is($near->ended, 'reset', "$pair, no handshake: client gets nothing");
    is($far->ended, 'reset', "$pair, no handshake: server");

    # a reset within TLS is a reset
    ($near, $far) = after($c, $s, $pair, $command);
    ok($tls->secure($near), "$pair, cut TLS");
    $near->send('part');
    is($far->bytes(4), 'part', "$pair, cut bytes");
    $near->reset;
    is($far->ended, 'reset', "$pair, cut server");

    # a server with a wrong certificate, and one that speaks no TLS

    ($c, $s) = session('explicit', 'tls', $pair);
    is(protect($c, $s, 'tls', 'P'), '', "$pair, wrong PROT");

    for my $who ('stranger', 'client') {
        my ($near, $far) = after($c, $s, $pair, $command);
        $tls->serve($far, cert => $cert{$who})->handshake;
        is($near->ended, 'reset', "$who client");
        $far->rest;
        ok($far->{end}, "$who server");
    }

    ($near, $far) = after($c, $s, $pair, $command);
    $far->send("in clear\r\n");
    is($near->ended, 'reset', "$pair, clear client");
    $far->rest;
    ok($far->{end}, "$pair, clear server");

    transfer($c, $s, 'right again', $pair, 1, 1, $command, $_) for 'RETR', 'STOR';
}

# A data connection behind one that went wrong.
sub after {
    my ($c, $s, $pair, $command) = @_;

    my @ends = data($c, $s, $pair, $command);

    $s->send("426 cut\r\n");
    is($c->line, "426 cut\r\n", "$pair, 426");

    return @ends;
}
