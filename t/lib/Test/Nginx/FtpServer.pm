package Test::Nginx::FtpServer;

# A fake FTP server that lives in the test itself: a listening socket whose
# connections the test plays by hand, one step after the other.  The kernel
# accepts and buffers meanwhile, so no second process is needed, and what is
# sent when is never a race.

use strict;
use warnings;

use IO::Select;
use IO::Socket::IP;
use IO::Socket::UNIX;
use Socket qw(SOMAXCONN);

use Test::Nginx::FtpConn;

# addr => where to listen (127.0.0.1), path => a unix socket instead,
# rcvbuf => receive buffer of the accepted connections, backlog => of listen()
sub new {
    my ($class, %arg) = @_;

    my $addr = $arg{addr} // '127.0.0.1';
    my $socket;

    if ($arg{path}) {
        $socket = IO::Socket::UNIX->new(Local => $arg{path}, Listen => SOMAXCONN);

    } else {
        my @options = $arg{rcvbuf}
            ? (Sockopts => [[Socket::SOL_SOCKET(), Socket::SO_RCVBUF(),
                $arg{rcvbuf}]])
            : ();

        $socket = IO::Socket::IP->new(
            LocalHost => $addr,
            LocalPort => $arg{port} // 0,
            Type      => Socket::SOCK_STREAM(),
            Listen    => $arg{backlog} // SOMAXCONN,
            ReuseAddr => 1,
            @options,
        );
    }

    die "cannot listen: $@ $!\n" unless $socket;

    return bless { socket => $socket, addr => $addr }, $class;
}

sub port { $_[0]{socket}->sockport }

# addr:port as nginx's proxy_pass wants it
sub at {
    my ($self) = @_;

    my $addr = $self->{addr} =~ /:/ ? "[$self->{addr}]" : $self->{addr};

    return "$addr:" . $self->port;
}

# The six numbers of a 227.
sub hostport {
    my ($self, $addr) = @_;

    $addr //= $self->{addr};
    $addr =~ tr/./,/;

    return join ',', $addr, $self->port >> 8, $self->port & 255;
}

# The next connection.
sub accept {
    my ($self) = @_;

    if (!IO::Select->new($self->{socket})
        ->can_read($Test::Nginx::FtpConn::DEADLINE))
    {
        Test::Nginx::FtpConn::remark('nobody connected to the server');
        die "no connection\n";
    }

    my $socket = $self->{socket}->accept or die "cannot accept: $!\n";

    return Test::Nginx::FtpConn->new($socket);
}

# Whether somebody has connected whom the test has not accepted.
sub touched {
    my ($self) = @_;

    return !!IO::Select->new($self->{socket})->can_read(0);
}

# A listening socket for one or more data connections.
sub passive {
    my ($self, %arg) = @_;

    return Test::Nginx::FtpServer->new(addr => $self->{addr}, %arg);
}

sub close {
    my ($self) = @_;

    my $socket = delete $self->{socket} or return 1;

    return CORE::close $socket;
}

1;
