#!/usr/bin/perl

# A server that is asked for TLS: greeting and AUTH in clear, all else within
# TLS, for each kind of client, with the directives of the stock proxy.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpDns;
use Test::Nginx::FtpLegs;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my @both = map { $t->server(addr => "127.0.0.$_") } 1 .. 2;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my $path = "$dir/ftp.sock";
my $unix = $t->server(path => $path);
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] } 'server', 'client';

my $dns = Test::Nginx::FtpDns->new;
my $verify = "proxy_ssl_verify on; proxy_ssl_trusted_certificate $dir/ca.crt; "
    . 'proxy_ssl_server_name on; proxy_ssl_name server;';
my $range = "min_port=${\$t->port(20)} max_port=${\$t->port(39)}";
my $n = 0;

sub ctrl {
    my ($more, $listen) = @_;

    my $port = $t->port($n);
    my $zone = $n++ ? 'ftp' : 'ftp:1m';

    $listen = $listen ? " $listen" : '';

    return "server { listen 127.0.0.1:$port$listen; ftp_ctrl zone=$zone "
        . "$range; $more }\n";
}

my $to = "proxy_pass ${\$server->at};";
my $realip = $t->build_info =~ /--with-stream_realip_module/;

my $servers = join '',
    ctrl("$to ftp_auth_tls on;"),                                  # 0
    ctrl($to, 'ssl'),                                              # 1
    ctrl("$to $verify"),                                           # 2
    ctrl('proxy_pass both;'),                                      # 3
    ctrl('proxy_pass $given;'),                                    # 4
    ctrl("proxy_pass \$named; resolver 127.0.0.1:${\$dns->port} ipv6=off; $verify"),
    ctrl("proxy_pass unix:$path; ftp_pasv_trust 127.0.0.0/8;"),    # 6
    ctrl("$to proxy_protocol on;"),                                # 7
    ctrl("$to ftp_auth_tls only;"),                                # 8
    ctrl("$to proxy_ssl_certificate $dir/client.crt; "
        . "proxy_ssl_certificate_key $dir/client.key;"),           # 9
    ctrl("$to proxy_ssl_protocols TLSv1.2; "
        . 'proxy_ssl_ciphers ECDHE-ECDSA-AES256-GCM-SHA384;'),     # 10
    ctrl("$to proxy_connect_timeout 1s;"),                         # 11
    ctrl("$to proxy_ssl off; ftp_proxy_auth_tls off;"),            # 12
    ctrl("$to ftp_proxy_auth_tls off;"),                           # 13
    ctrl("$to ftp_auth_tls on;", $realip && 'proxy_protocol'),     # 14
    ctrl("$to ssl_verify_client on; ssl_client_certificate $dir/ca.crt;",
        'ssl');                                                    # 15

sub conf {
    return <<"EOF";
    $certificates
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    ftp_proxy_auth_tls on;

    upstream both {
        zone upstreams 64k;
        server ${\$both[0]->at};
        server ${\$both[1]->at};
    }

    map \$server_port \$given { default ${\$server->at}; }
    map \$server_port \$named { default ftp.example:${\$server->port}; }

$servers
    server {
        listen 127.0.0.1:${\$t->range(20, 39)};
        ftp_data zone=ftp;
        proxy_ssl_certificate $dir/client.crt;
        proxy_ssl_certificate_key $dir/client.key;
    }
EOF
}

$t->run(conf());

my $legs = Test::Nginx::FtpLegs->new($t,
    server => $server,
    serve  => { cert => $cert{server}, explicit => 1 },
    ports  => { plain => 0, explicit => 0, implicit => 1 },
);

# ---- each kind of client

for my $kind ('plain', 'explicit', 'implicit') {
    my $implicit = $kind eq 'implicit';
    my $tls_client = $kind ne 'plain';

    for my $version (1.2, 1.3) {
        my $name = "$kind $version";
        my $context = $tls->context(cert => $cert{server}, version => $version);
        my %serve = (serve => { context => $context });

        my ($c, $s) = $legs->ready($kind, $name, %serve);

        is($s->version, "TLSv$version", "$name version");
        for my $mode ('PASV', 'EPSV') {
            $legs->transfer($c, $s, $name, $tls_client, 1, $mode, $_, %serve)
                for 'RETR', 'STOR', 'LIST';
        }

        if ($tls_client) {
            $legs->protect($c, $s, "$name C", '200 clear', 'C');
            $legs->transfers($c, $s, "$name C", 0, 0);
            $legs->protect($c, $s, "$name P", '200 private');
            $legs->transfers($c, $s, "$name P again", 1, 1);
        }

        # nothing is offered that the client cannot have, all that it can
        $c->command('FEAT');
        is($s->line, "FEAT\r\n", "$name FEAT");
        $s->send("211-F\r\n AUTH TLS\r\n PBSZ\r\n PROT\r\n UTF8\r\n211 End\r\n");
        is($c->reply, join('', "211-F\r\n UTF8\r\n",
            $implicit ? () : " AUTH TLS\r\n AUTH SSL\r\n",
            " PBSZ\r\n PROT\r\n", "211 End\r\n"),
            "$name features");

        is($t->dialog($c, $s, QUIT => '221 bye'), '', "$name quit");
        $s->finish;
        is($c->ended, 'eof', "$name end");
        like($s->ended, qr/^(?:bare )?eof$/, "$name server's end");
    }
}

# ---- the server's words in clear, bytewise and otherwise

my $long = join '', "220-ready\r\n", map { "220-line $_ $_ $_\r\n" } 1 .. 40;

for my $case (
    ['wait', "120 wait\r\n220 ready\r\n"],
    ['wait, multi-line', "120-wait\r\n 220 a\r\n120 b\r\n220-c\r\nd\r\n220 e\r\n"],
    ['multi-line', "220-Hi\r\n\r\n 220 x\r\n220-x\r\n221 y\r\n220 ready\r\n"],
    ['logged in', "230 you are in\r\n"],
    ['bare LF', "220-Hi\n220 ready\n"],
    ['bytes', "220 caf\xc3\xa9 \xff\x00 here\r\n"],
    ['empty', "220 \r\n"],
    ['long', "${long}220 end\r\n"],
) {
    my ($name, $greeting) = @$case;

    for my $split (0, 1) {
        next if $split && length $greeting > 200;

        for my $kind ('plain', 'explicit', 'implicit') {
            my $what = "$name $kind" . ($split ? ' bytewise' : '');
            my $c = $legs->connect($kind);
            my $s = $tls->accept($server, cert => $cert{server}, explicit => 1,
                greeting => [$split ? (split //, $greeting) : $greeting]);

            is($c->bytes(length $greeting), $greeting, $what);

            if ($name eq 'logged in') {
                is($s->line, "$_\r\n", "$what $_") for 'PBSZ 0', 'PROT P';
                $s->send("200 PBSZ=0\r\n", "200 private\r\n");
            }

            $tls->auth($c) if $kind eq 'explicit';
            is($t->dialog($c, $s, SYST => '215 UNIX'), '', "$what in step");
        }
    }
}

for my $case (
    ['bytewise', map { [split //, $_] } "220 a\r\n", "234 go\r\n"],
    ['multi-line', "220 a\r\n", "234-AUTH\r\n 234 x\r\n234 go\r\n"],
    ['multi-line bytewise', "220 a\r\n", [split //, "234-A\r\n234-x\r\n234 b\r\n"]],
    ['bare LF', "220 a\n", "234 go\n"],
    ['empty', "220 a\r\n", "234 \r\n"],
) {
    my ($name, $greeting, $proceed) = @$case;
    my $c = $legs->connect('plain');
    my $s = $tls->accept($server, cert => $cert{server}, explicit => 1,
        greeting => $greeting, proceed => $proceed);

    my $said = ref $greeting ? join('', @$greeting) : $greeting;
    is($c->line, $said, "consent $name");
    is($t->dialog($c, $s, SYST => '215 UNIX'), '', "consent $name in step");
}

# ---- what the client says before the greeting waits, and nothing comes before
# TLS is up

my $early = "USER u\r\nPASS p\r\nSYST\r\n";
my $auth = "AUTH TLS\r\nDELE x\r\n";

# The session up to the server's TLS; the client says that, at that moment.
sub early {
    my ($kind, $when, $name, @words) = @_;

    my $c = $legs->connect($kind);

    $c->send(@words) if $when eq 'first';
    my $s = $server->accept;
    $s->send("220 ready\r\n");
    is($s->line, "AUTH TLS\r\n", "$name AUTH");
    is($s->waiting, '', "$name AUTH alone");
    $c->send(@words) if $when eq 'before consent';
    is($c->waiting, '', "$name nothing with the greeting");
    $s->send("234 go\r\n");
    $s->_wait('read');
    $c->send(@words) if $when eq 'before handshake';
    is($c->waiting, '', "$name nothing with the consent");
    $tls->serve($s, cert => $cert{server});
    ok($s->handshake, "$name server's handshake");
    is($c->line, "220 ready\r\n", "$name greeting");

    return ($c, $s);
}

for my $when ('first', 'before consent', 'before handshake') {
    for my $kind ('plain', 'implicit') {
        my $name = "$kind $when";
        my ($c, $s) = early($kind, $when, $name, $early);

        is($s->line, "$_\r\n", "$name $_") for 'USER u', 'PASS p', 'SYST';
        $s->send("331 password\r\n230 in\r\n215 UNIX\r\n");
        is($c->line, "$_\r\n", "$name $_")
            for '331 password', '230 in', '215 UNIX';
        $c->command('NOOP');
        is($s->line, "$_\r\n", "$name $_") for 'PBSZ 0', 'PROT P', 'NOOP';
    }

    # AUTH, and something behind it that nobody may obey

    my $name = "explicit $when";
    my ($c, $s) = early('explicit', $when, $name, $auth);

    like($c->line, qr/^234 /, "$name 234");
    ok($tls->secure($c), "$name handshake");
    is($t->dialog($c, $s, SYST => '215 UNIX'), '', "$name in step");
}

# more than buffers hold

{
    my $c = $legs->connect('plain');
    my $many = join '', map { "STAT $_" . 'x' x 4000 . "\r\n" } 1 .. 500;
    my $sent = 0;

    while ($sent < length $many) {
        my $done = $c->write_some(substr $many, $sent, 100_000) or last;
        $sent += $done;
    }

    my $s = $tls->accept($server, cert => $cert{server}, explicit => 1);
    is($c->line, "220 ready\r\n", 'flood greeting');
    ok($s->bytes($sent) eq substr($many, 0, $sent), "nothing lost of $sent");
}

# ---- a client that must do AUTH first

{
    my ($c, $s) = $legs->session('plain', port => 8);

    $c->command('USER u');
    like($c->line, qr/^530 /, 'only');
    $tls->auth($c);
    is($t->dialog($c, $s, 'USER u' => '331 password'), '', 'only over TLS');
}

# ---- directives of the stock proxy

# name and authority

{
    my ($c, $s) = $legs->ready('plain', 'verified', port => 2);

    is($s->server_name, 'server', 'SNI');
    $legs->transfers($c, $s, 'verified', 0, 1);
}

# several servers: data follows control

my %reached;

for my $i (1 .. 4) {
    my $c = $legs->connect('plain', port => 3);

    $t->wait_for('a server', sub { grep { $_->touched } @both });
    my ($which) = grep { $_->touched } @both;
    my $s = $tls->accept($which, cert => $cert{server}, explicit => 1);

    is($c->line, "220 ready\r\n", "upstream $i greeting");
    $legs->login($c, $s, "upstream $i", '200 private');
    $legs->transfer($c, $s, "upstream $i", 0, 1, 'EPSV', 'RETR');
    $reached{$which->at}++;
}

is(join(' ', sort values %reached), '2 2', 'both servers');

# a variable

{
    my ($c, $s) = $legs->ready('plain', 'variable', port => 4);
    $legs->transfers($c, $s, 'variable', 0, 1);
}

# a name that a resolver knows

{
    my $c = $legs->connect('plain', port => 5);

    $c->send("SYST\r\n");
    $dns->answer('127.0.0.1');
    my $s = $tls->accept($server, cert => $cert{server}, explicit => 1);
    is($c->line, "220 ready\r\n", 'resolved');
    is($s->line, "SYST\r\n", 'resolved command');
    $s->send("215 UNIX\r\n");
    is($c->line, "215 UNIX\r\n", 'resolved reply');
    $legs->login($c, $s, 'resolved', '200 private');
    $legs->transfers($c, $s, 'resolved', 0, 1);
}

# a unix socket; it has no address for data but a trusted one

{
    my ($c, $s) = $legs->session('plain', port => 6, server => $unix);

    $legs->login($c, $s, 'unix', '200 private');

    my $listener = $t->server;
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    my $far = $tls->accept($listener, cert => $cert{server});
    $far->send('x');
    $far->finish;
    is($near->rest, 'x', 'unix data');
}

# PROXY protocol toward the server

for my $name ('late', 'early') {
    my $c = $legs->connect('plain', port => 7);
    $c->command('SYST') if $name eq 'early';
    my $s = $server->accept;

    is($s->line, "PROXY TCP4 127.0.0.1 127.0.0.1 ${\$c->local_port} "
        . "${\$t->port(7)}\r\n", "header in clear, $name");
    is($s->waiting, '', "nothing behind it, $name");
    $tls->agree($s);
    ok($tls->serve($s, cert => $cert{server})->handshake, "PROXY TLS, $name");
    is($c->line, "220 ready\r\n", "PROXY greeting, $name");
    $c->command('SYST') if $name eq 'late';
    is($s->line, "SYST\r\n", "no second header, $name");
    $s->send("215 UNIX\r\n");
    is($c->line, "215 UNIX\r\n", "PROXY reply, $name");
    $legs->login($c, $s, "PROXY $name", '200 private');
    $legs->transfers($c, $s, "PROXY $name", 0, 1);
}

# and from a balancer

if ($realip) {
    my $c = Test::Nginx::FtpClient->connect(port => $t->port(14), before =>
        "PROXY TCP4 192.0.2.77 203.0.113.9 40000 21\r\nSYST\r\n");
    my $s = $tls->accept($server, cert => $cert{server}, explicit => 1);
    is($c->line, "220 ready\r\n", 'balancer greeting');
    is($s->line, "SYST\r\n", 'balancer command');
}

# the proxy's own certificate

{
    my $context = $tls->context(cert => $cert{server}, ca => "$dir/ca.crt");
    my %serve = (serve => { context => $context });
    my ($c, $s) = $legs->ready('plain', 'own certificate', port => 9, %serve);

    $legs->transfer($c, $s, 'own certificate', 0, 1, 'PASV', 'RETR', %serve);
}

# the client's certificate

{
    my ($c, $s) = $legs->session('implicit', port => 15,
        client => { cert => $cert{client} });

    is($t->dialog($c, $s, SYST => '215 UNIX'), '', "client's certificate");
}

# protocols and ciphers

{
    my ($c, $s) = $legs->session('plain', port => 10);

    is($s->version, 'TLSv1.2', 'protocol');
    is(Net::SSLeay::get_cipher($s->{tls}{ssl}), 'ECDHE-ECDSA-AES256-GCM-SHA384',
        'cipher');
}

# off in one server: plain, and implicit

{
    my ($c, $s) = $legs->session('plain', port => 12, plain => 1);
    is($t->dialog($c, $s, 'USER u' => '230 in', SYST => '215 UNIX'), '', 'plain');
    $legs->transfers($c, $s, 'plain server', 0, 0);

    ($c, $s) = $legs->session('plain', port => 13, serve => { explicit => 0 });
    $legs->login($c, $s, 'implicit server', '200 private');
    $legs->transfers($c, $s, 'implicit server', 0, 1);
}

# ---- sessions that stop at each moment

my @moments = ('greeting', 'consent', 'handshake');

# A session whose server has not come to that moment.
sub before {
    my ($moment, $kind, $port) = @_;

    my $c = $legs->connect($kind // 'plain', port => $port);
    my $s = $server->accept;

    if ($moment ne 'greeting') {
        $s->send("220 ready\r\n");
        is($s->line, "AUTH TLS\r\n", "AUTH before $moment");
    }

    if ($moment eq 'handshake') {
        $s->send("234 go\r\n");
        $s->_wait('read');
    }

    return ($c, $s);
}

# the client leaves; the server, which does not know, goes on or waits for ever

for my $kind ('plain', 'implicit') {
    for my $moment (@moments) {
        for my $how ('close', 'reset') {
            my ($c, $s) = before($moment, $kind);

            $c->$how;

            local $Test::Nginx::FtpConn::QUIET = 1;

            $s->send("220 ready\r\n"), $s->line if $moment eq 'greeting';
            $s->send("234 go\r\n") if $moment ne 'handshake';
            $tls->serve($s, cert => $cert{server})->handshake;
            $s->rest;
            ok($s->{end}, "$kind client, $how before $moment");
        }
    }
}

for my $moment (@moments) {
    my ($c, $s) = before($moment, 'plain', 11);

    $c->close;
    $s->rest;
    ok($s->{end}, "timeout without client before $moment");
}

# ---- both workers, all at once

{
    my @open;

    for my $worker ($t->workers) {
        for my $kind ('plain', 'explicit', 'implicit') {
            my ($c, $s) = $t->only_worker($worker, sub {
                $legs->ready($kind, "worker $kind") });
            is($t->worker_of($c), $worker, "worker of $kind");
            push @open, [$c, $s, $worker, $kind];
        }
    }

    for my $open (@open) {
        my ($c, $s, $worker, $kind) = @$open;

        for my $other ($t->workers) {
            my $name = "$kind " . ($other == $worker ? 'same' : 'other');
            $legs->transfer($c, $s, "$name worker", $kind ne 'plain', 1, 'PASV',
                $_, worker => $other) for 'RETR', 'STOR';
        }
    }
}

# ---- a session lives longer than proxy_connect_timeout

{
    my ($c, $s) = $legs->ready('plain', 'long', port => 11);

    # another one meets it meanwhile
    my $late = $legs->connect('plain', port => 11);
    my $silent = $server->accept;
    $late->rest;
    ok($late->{end}, 'timeout of another');
    $silent->close;

    is($t->dialog($c, $s, SYST => '215 UNIX'), '', 'no timeout of its own');
    $legs->transfers($c, $s, 'long', 0, 1);
}

# ---- a reload at each moment: the old workers go on

{
    my %old = map { $_ => 1 } $t->workers;
    my ($c0, $s0) = $legs->ready('plain', 'before a reload');
    my @waiting = map { [$_, before($_)] } @moments;

    $t->reload(conf());

    for my $waiting (@waiting) {
        my ($moment, $c, $s) = @$waiting;
        my $name = "reload before $moment";

        if ($moment eq 'greeting') {
            $s->send("220 ready\r\n");
            is($s->line, "AUTH TLS\r\n", "$name AUTH");
        }

        $s->send("234 go\r\n") if $moment ne 'handshake';
        ok($tls->serve($s, cert => $cert{server})->handshake, "$name TLS");
        is($c->line, "220 ready\r\n", "$name greeting");
        $legs->login($c, $s, $name, '200 private');
        $legs->transfers($c, $s, $name, 0, 1);
    }

    $legs->transfers($c0, $s0, 'over a reload', 0, 1);

    my ($c, $s) = $legs->ready('explicit', 'after a reload');
    $legs->transfers($c, $s, 'after a reload', 1, 1);

    Test::Nginx::FtpConn->close_all;
    ok($t->wait_for('the old workers to end', sub {
        !grep { $old{$_} } $t->workers }), 'old workers end');
}

# ---- worker_shutdown_timeout ends what still waits

{
    $t->reload(conf(), main => 'worker_shutdown_timeout 1s;');

    my @waiting = map { [$_, before($_)] } @moments;

    $t->reload(conf());

    for my $waiting (@waiting) {
        my ($moment, $c, $s) = @$waiting;

        is($c->rest, '', "shutdown before $moment, no greeting");
        ok($c->{end}, "shutdown before $moment");
        $s->rest;
        ok($s->{end}, "shutdown before $moment, server");
    }
}

$t->done;
