package Test::Nginx::FtpClient;

# An FTP client made of a raw control connection: it sends what it is told,
# byte for byte, and connects where a 227 or 229 says.

use strict;
use warnings;

use parent 'Test::Nginx::FtpConn';

use Errno qw(ECONNRESET);
use Socket qw(AF_INET AF_INET6 AI_NUMERICHOST SOCK_STREAM SOL_SOCKET SO_RCVBUF
    SO_REUSEADDR getaddrinfo inet_pton pack_sockaddr_in pack_sockaddr_in6);

use Test::Nginx::FtpConn;

# addr (127.0.0.1) and port to connect to, bind => own address, both as
# fe80::1%eth0 where they are link-local, from => own port, rcvbuf => size of
# the receive buffer, before => bytes in front of all else
sub connect {
    my ($class, %arg) = @_;

    my $addr = $arg{addr} // '127.0.0.1';
    my $family = $addr =~ /:/ ? AF_INET6 : AF_INET;

    socket my $socket, $family, SOCK_STREAM, 0 or die "no socket: $!\n";

    if ($arg{rcvbuf}) {
        setsockopt $socket, SOL_SOCKET, SO_RCVBUF, $arg{rcvbuf};
    }

    if ($arg{bind} || $arg{from}) {
        my $own = $arg{bind} // ($family == AF_INET6 ? '::' : '0.0.0.0');
        my $from = $arg{from} // 0;

        # several connections may have the same port
        setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1 if $from;
        bind $socket, _pack($family, $from, $own)
            or die "cannot bind to $own:$from: $!\n";
    }

    # A refused connection is accepted by the kernel and reset by nginx, maybe
    # before connect is done; only nobody listening is an error.
    my $done = CORE::connect $socket, _pack($family, $arg{port}, $addr);

    die "cannot connect to $addr:$arg{port}: $!\n"
        unless $done || $! == ECONNRESET;

    my $self = $class->SUPER::new($socket);

    $self->{end} = 'reset' unless $done;
    $self->{addr} = $addr;
    $self->{bind} = $arg{bind};
    $self->write($arg{before}) if defined $arg{before};

    return $self;
}

# Asks for a connection and does not wait for it.
sub start {
    my ($class, %arg) = @_;

    socket my $socket, AF_INET, SOCK_STREAM, 0 or die "no socket: $!\n";
    IO::Handle::blocking($socket, 0);
    CORE::connect $socket, _pack(AF_INET, $arg{port}, '127.0.0.1');

    return $class->SUPER::new($socket);
}

sub _pack {
    my ($family, $port, $addr) = @_;

    # an interface has a number, which the system knows
    if ($addr =~ /%/) {
        my ($error, $found) = getaddrinfo($addr, $port,
            { flags => AI_NUMERICHOST, socktype => SOCK_STREAM });
        die "no address: $addr: $error\n" if $error;

        return $found->{addr};
    }

    my $packed = inet_pton($family, $addr) // die "no address: $addr\n";

    return $family == AF_INET6
        ? pack_sockaddr_in6($port, $packed)
        : pack_sockaddr_in($port, $packed);
}

# Sends a command, its CRLF added.
sub command {
    my ($self, $command) = @_;

    return $self->send("$command\r\n");
}

# The port in a reply as the proxy writes it, or undef.  A 227 must have its
# six numbers in parentheses, which is stricter than what clients accept.
sub passive_port {
    my ($self, $reply) = @_;

    return $5 * 256 + $6 if $reply =~ /^227 .*
        \((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)/x;

    return $1 if $reply =~ /^229 .*\(\|\|\|(\d+)\|\)/;

    return;
}

sub passive_addr {
    my ($self, $reply) = @_;

    return "$1.$2.$3.$4" if $reply =~ /^227 .*
        \((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)/x;

    return;
}

# A data connection to that port, at the address of the control connection,
# from the same address as the control connection unless told otherwise.
sub data {
    my ($self, $port, %arg) = @_;

    die "no data port\n" unless $port;

    return __PACKAGE__->connect(
        addr => $self->{addr},
        bind => $self->{bind},
        port => $port,
        %arg,
    );
}

1;
