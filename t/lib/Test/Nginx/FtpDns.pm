package Test::Nginx::FtpDns;

# A name server whose answers the test writes, one at a time; FtpNames answers by
# itself.

use strict;
use warnings;

use IO::Select;
use Socket qw(inet_aton pack_sockaddr_in unpack_sockaddr_in INADDR_LOOPBACK
    PF_INET SOCK_DGRAM);

use Test::Nginx::FtpConn;

sub new {
    my ($class) = @_;

    CORE::socket my $socket, PF_INET, SOCK_DGRAM, 0 or die "no socket: $!\n";
    CORE::bind $socket, pack_sockaddr_in(0, INADDR_LOOPBACK)
        or die "no port: $!\n";

    return bless { socket => $socket }, $class;
}

sub port { (unpack_sockaddr_in(getsockname $_[0]{socket}))[0] }

# Whether there is a question.
sub asked { !!IO::Select->new($_[0]{socket})->can_read(0) }

# Waits for the next question; these are the IPv4 addresses of that name, or it
# does not exist if there are none.
sub answer {
    my ($self, @addrs) = @_;

    if (!IO::Select->new($self->{socket})
        ->can_read($Test::Nginx::FtpConn::DEADLINE))
    {
        die "nobody asked for a name\n";
    }

    my $from = CORE::recv $self->{socket}, my $question, 512, 0;
    die "no question\n" unless defined $from && length $question > 12;

    my ($id, $asked) = unpack 'a2 x10 a*', $question;

    # standard answer, 3 for a name that does not exist; each for an hour
    my $answer = $id . pack('n5', @addrs ? 0x8180 : 0x8183, 1, scalar @addrs, 0, 0)
        . $asked;

    $answer .= pack('n3Nn', 0xc00c, 1, 1, 3600, 4) . inet_aton($_) for @addrs;

    CORE::send $self->{socket}, $answer, 0, $from or die "no answer: $!\n";

    return;
}

1;
