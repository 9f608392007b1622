package Test::Nginx::FtpLegs;

# Sessions and transfers in front of a server that speaks TLS, implicit or
# explicit, for each kind of client: 'plain', 'explicit', 'implicit'.

use strict;
use warnings;

use Test::More;

use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';

# Each of them 256,000 bytes.
our $bytes = join('', map { chr } 0 .. 255) x 1000;

# server => the fake one, serve => arguments for serve or accept of FtpTls,
# ports => { kind => port of the block }
sub new {
    my ($class, $t, %arg) = @_;

    return bless { t => $t, %arg }, $class;
}

# The client's end of a control connection, its own TLS done if it is implicit.
#   port => of the block, version => and so on as for prepare
sub connect {
    my ($self, $kind, %arg) = @_;

    my $port = delete $arg{port} // $self->{ports}{$kind};
    my $c = $tls->connect(port => $self->{t}->port($port));

    if ($kind eq 'implicit') {
        $tls->secure($c, %arg) or die "no handshake\n";
    }

    return $c;
}

# A control connection after its greeting and TLS of that kind of client.
#   port => of the block, server => another one, plain => without TLS,
#   serve => more arguments for accept, client => for prepare
sub session {
    my ($self, $kind, %arg) = @_;

    my $server = $arg{server} // $self->{server};
    my %serve = (%{ $self->{serve} }, %{ $arg{serve} // {} });
    my %client = %{ $arg{client} // {} };

    my $c = $self->connect($kind, port => $arg{port}, %client);
    my $s = $arg{plain} ? $server->accept : $tls->accept($server, %serve);

    $s->send("220 ready\r\n") unless $serve{explicit} && !$arg{plain};
    my $greeting = $c->line;
    die "no greeting but '$greeting'\n" if $greeting ne "220 ready\r\n";

    $tls->auth($c, %client) if $kind eq 'explicit';

    # what the proxy has to tell it after the login of such a client
    $s->{unsure} = $kind eq 'explicit' && !$arg{plain} && !$serve{explicit};

    return ($c, $s);
}

# The proxy's own PROT C, if this server's TLS is implicit and its client's
# explicit: the server might take data for private.
sub told {
    my ($self, $s, $name) = @_;

    return unless $s->{unsure};

    is($s->line, "$_\r\n", "$name $_") for 'PBSZ 0', 'PROT C';
    $s->send("200 PBSZ=0\r\n", "200 clear\r\n");

    return;
}

# Login of a plain client: the proxy's own commands and their answers.
sub login {
    my ($self, $c, $s, $name, $prot) = @_;

    is($self->{t}->dialog($c, $s,
        'USER somebody' => '331 password',
        'PASS x'        => '230 in',
    ), '', "$name login");
    $c->command('NOOP');
    is($s->line, "$_\r\n", "$name $_") for 'PBSZ 0', 'PROT P', 'NOOP';
    $s->send("200 PBSZ=0\r\n", "$prot\r\n", "250 okay\r\n");
    is($c->line, "250 okay\r\n", "$name nothing of it");

    return;
}

# PBSZ or PROT that goes through.
sub protect {
    my ($self, $c, $s, $name, $prot, $level) = @_;

    is($self->{t}->dialog($c, $s,
        'PBSZ 0' => '200 PBSZ=0 of the server',
        'PROT ' . ($level // 'P') => $prot,
    ), '', "$name PBSZ and PROT");

    return;
}

# A session of that kind that is ready for transfers, both legs private
# wherever they can be.
sub ready {
    my ($self, $kind, $name, %arg) = @_;

    my ($c, $s) = $self->session($kind, %arg);

    if ($kind eq 'explicit') {
        is($self->{t}->dialog($c, $s, 'USER u' => '230 in'), '', "$name login");
        $self->told($s, $name);
        $self->protect($c, $s, $name, '200 private');

    } else {
        $self->login($c, $s, $name, '200 private');
    }

    return ($c, $s);
}

# A transfer; which legs are TLS is the client's and the server's flag.
#   serve => more arguments for serve, client => for prepare,
#   worker => worker that takes the data connection, bytes => what is moved
# Returns both ends of the data connection.
sub transfer {
    my ($self, $c, $s, $name, $client, $far_tls, $mode, $verb, %arg) = @_;

    my $t = $self->{t};
    my $what = $arg{bytes} // $bytes;

    $name = "$name $mode $verb";

    my $listener = $t->server(addr => $s->local_addr);
    my $port = $c->passive_port($t->passive($c, $s, $listener, $mode));
    my $near = !$arg{worker} ? $c->data($port)
        : $t->only_worker($arg{worker}, sub {
            my $near = $c->data($port);
            $t->worker_of($near);
            return $near;
        });
    my $far = $listener->accept;

    $c->command("$verb f");
    is($s->line, "$verb f\r\n", "$name command");
    $s->send("150 now\r\n");
    is($c->line, "150 now\r\n", "$name 150");

    if ($far_tls) {
        # an answer to nginx's close_notify would meet a closed socket
        $tls->serve($far, %{ $self->{serve} }, mute => 1,
            %{ $arg{serve} // {} });
        ok($far->handshake, "$name server TLS");
    }

    ok($tls->secure($near, %{ $arg{client} // {} }), "$name client TLS")
        if $client;

    my ($from, $to) = $verb eq 'STOR' ? ($near, $far) : ($far, $near);

    $from->send($what);
    $from->finish;
    ok($to->rest eq $what, "$name bytes");
    is($to->{end}, 'eof', "$name end");
    is($from->ended, 'eof', "$name other end");

    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name 226");

    return ($near, $far);
}

# One of each mode and direction.
sub transfers {
    my ($self, @arg) = @_;

    for my $mode ('PASV', 'EPSV') {
        $self->transfer(@arg, $mode, $_) for 'RETR', 'STOR';
    }

    return;
}

# A transfer that the certificate on the server's data port prevents.
sub fails {
    my ($self, $c, $s, $name, $client, $cert, $verb) = @_;

    my $t = $self->{t};
    my $listener = $t->server;
    my $near = $c->data($c->passive_port($t->passive($c, $s, $listener)));
    my $far = $listener->accept;

    $c->command("$verb f");
    is($s->line, "$verb f\r\n", "$name command");
    $s->send("150 now\r\n");
    is($c->line, "150 now\r\n", "$name 150");

    # what the client says first does not help
    $tls->prepare($near)->send_raw($near->hello) if $client;

    $tls->serve($far, cert => $cert)->handshake;
    $far->send('secret') if $verb eq 'RETR' && !$far->{end};

    is($near->ended, 'reset', "$name reset");
    is($far->rest, '', "$name no bytes for the server");
    ok($far->{end}, "$name server's end");

    $s->send("426 aborted\r\n");
    is($c->line, "426 aborted\r\n", "$name 426");

    return;
}

1;
