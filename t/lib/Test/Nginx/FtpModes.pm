package Test::Nginx::FtpModes;

# One data connection in any pair of modes, step by step: agreed on, dialled by
# whoever does that, and a file from the server to the client.

use strict;
use warnings;

use Test::Nginx::FtpClient;
use Test::Nginx::FtpServer;

# What the client asks for on a control connection and what the server, asked in
# whatever mode, answers.  Dies where the client gets no yes.
#   command => PASV, EPSV, PORT or EPRT
sub agree {
    my ($class, $t, $c, $s, $command) = @_;

    my $self = bless { t => $t, c => $c, s => $s }, $class;

    if ($command =~ /^(?:PORT|EPRT)/) {
        $self->{client} = $t->server(addr => $c->local_addr);
        $c->command($t->active_command($self->{client}, $command));

    } else {
        $c->command($command);
    }

    my $asked = $s->line;

    if ($asked =~ /^(?:PASV|EPSV)/) {
        my $listener = $self->{server} = $t->server(addr => $s->local_addr);

        $s->send($asked =~ /^P/
            ? "227 Passive (${\$listener->hostport})\r\n"
            : "229 Extended (|||${\$listener->port}|)\r\n");

    } else {
        $self->{told} = [$t->told($asked)];
        $s->send("200 okay\r\n");
    }

    my $reply = $c->line;
    die "client got '$reply'\n" if $reply !~ /\A2/;

    $self->{port} = $c->passive_port($reply) if !$self->{client};

    return $self;
}

# The client asks for the file. Whoever dials, does.
sub begin {
    my ($self) = @_;

    $self->{c}->command('RETR f');
    $self->dial_client if $self->{port};
    $self->dial_server if $self->{told};

    return $self;
}

# The client's data connection to the proxy.
sub dial_client {
    my ($self, %arg) = @_;

    return $self->{near} = $self->{c}->data($self->{port}, %arg);
}

# The server's.
sub dial_server {
    my ($self, %arg) = @_;

    return $self->{far} = $self->{t}->dial($self->{s}, @{$self->{told}}, %arg);
}

# Both ends, also of what the proxy dials.
sub ends {
    my ($self) = @_;

    $self->{near} //= $self->{client}->accept;
    $self->{far} //= $self->{server}->accept;

    return @$self{qw(near far)};
}

# What goes wrong behind begin, or nothing.
sub complete {
    my ($self) = @_;

    my $got = $self->{s}->line;
    return "server got '$got'" if $got ne "RETR f\r\n";

    my ($near, $far) = $self->ends;

    $far->send('file');
    $far->finish;
    $got = $near->rest;
    return "client got '$got', $near->{end}"
        if $got ne 'file' || $near->{end} ne 'eof';

    $near->close;
    my $end = $far->ended;
    return "server's end: $end" if $end ne 'eof';

    $self->{s}->send("226 done\r\n");
    $got = $self->{c}->line;

    return $got eq "226 done\r\n" ? '' : "client was told '$got'";
}

# All of it in one go, for tests that want to know whether it works.
sub works {
    my ($class, @arg) = @_;

    my $self = $class->agree(@arg)->begin;
    my $error = $self->complete;

    $self->leave;

    return $error;
}

# Closes what there is but the control connection.
sub leave {
    my ($self) = @_;

    $_->close for grep { defined } @$self{qw(near far client server)};

    return;
}

1;
