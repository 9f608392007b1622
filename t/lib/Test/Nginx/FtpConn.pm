package Test::Nginx::FtpConn;

# One end of a TCP or unix connection, with a deadline on everything that
# waits.  Knows lines and replies, but no commands: both the fake server and
# the client stand on it.

use strict;
use warnings;

use Errno qw(EAGAIN EINTR ENOENT);
use IO::Handle;
use IO::Select;
use Scalar::Util qw(weaken);
use Socket qw(:DEFAULT IPPROTO_TCP TCP_NODELAY SO_LINGER MSG_OOB
    MSG_DONTWAIT MSG_NOSIGNAL
    sockaddr_family unpack_sockaddr_in6 AF_INET6);
use Test::More ();
use Time::HiRes qw(time);

# Seconds that any single wait may last.  Generous: it is only spent by a test
# that fails.
our $DEADLINE = $ENV{TEST_NGINX_DEADLINE}
    || ($ENV{TEST_NGINX_VALGRIND} ? 60 : 20);

# A test that breaks connections on purpose wants no remarks about them.
our $QUIET;

my @all;

sub new {
    my ($class, $socket) = @_;

    IO::Handle::blocking($socket, 0);

    # meaningless and harmless on a unix socket
    setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1)
        if sockaddr_family(getsockname($socket)) != AF_UNIX;

    my $self = bless {
        socket => $socket,
        in     => '',       # received and not yet taken by the test
        end    => '',       # '', 'eof' or 'reset'
    }, $class;

    @all = grep { defined } @all, $self;
    weaken($_) for @all;

    return $self;
}

# Closes every connection that the test still holds.
sub close_all {
    $_->close for grep { defined } @all;
    @all = ();
}

sub socket { $_[0]{socket} }

sub local_port { (_address(getsockname($_[0]{socket})))[1] }
sub local_addr { (_address(getsockname($_[0]{socket})))[0] }
sub peer_port  { (_address(getpeername($_[0]{socket})))[1] }
sub peer_addr  { (_address(getpeername($_[0]{socket})))[0] }

# Sends each argument.  When there are several, the next one leaves only after
# the other side has read the one before, so that each is a read of its own.
sub send {
    my ($self, @segments) = @_;

    while (defined(my $segment = shift @segments)) {
        $self->write($segment) or return 0;
        $self->taken if @segments;
    }

    return 1;
}

# The same with a boundary between any two bytes.
sub send_bytewise {
    my ($self, $bytes) = @_;

    return $self->send(split //, $bytes);
}

# Sends its argument but for the last byte as usual, the last one as urgent.
sub send_urgent {
    my ($self, $bytes) = @_;

    return defined CORE::send($self->{socket}, $bytes, MSG_OOB | MSG_NOSIGNAL);
}

sub write {
    my ($self, $bytes) = @_;

    my $until = time + $DEADLINE;

    while (length $bytes) {
        my $n = $self->write_some($bytes);
        return 0 unless defined $n;

        if ($n == 0) {
            if (!$self->_wait(write => $until)) {
                remark(length($bytes) . ' bytes could not be sent');
                return 0;
            }
            next;
        }

        substr($bytes, 0, $n, '');
    }

    return 1;
}

# Sends what the socket takes now; undef if the connection is gone.
sub write_some {
    my ($self, $bytes) = @_;

    return unless $self->{socket};

    my $n = CORE::send($self->{socket}, $bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    return $n if defined $n;
    return 0 if $! == EAGAIN || $! == EINTR;

    $self->{end} ||= 'reset';
    return;
}

# Waits until the peer's kernel holds nothing that its process has not read.
sub taken {
    my ($self) = @_;

    my $until = time + $DEADLINE;

    until ($self->is_taken) {
        if (time > $until) {
            remark('the peer did not read what was sent');
            return 0;
        }
        select undef, undef, undef, 0.001;
    }

    return 1;
}

sub is_taken {
    my ($self) = @_;

    my $row = $self->peer_row or return 1;

    return $row->{received} == 0;
}

# What the kernel tells about the other end of this connection, if that is on
# this machine: bytes received and unread, inode of the socket (0 until it is
# accepted).
sub peer_row {
    my ($self) = @_;

    my $here = getsockname($self->{socket});
    my $there = getpeername($self->{socket}) or return;

    return if sockaddr_family($here) == AF_UNIX;

    my $row = _diag($there, $here) // _proc($there, $here);

    # a socket in TIME_WAIT or CLOSE reads nothing any more
    return if !$row->{state} || $row->{state} == 6 || $row->{state} == 7;

    return $row;
}

# Asks for one socket by netlink (sock_diag(7)): cheap even where the table of
# /proc/net/tcp is huge.  An empty answer if there is none, undef if this
# kernel cannot tell.
sub _diag {
    my ($local, $remote) = @_;

    our $netlink;

    if (!defined $netlink) {
        # AF_NETLINK, NETLINK_SOCK_DIAG
        CORE::socket(my $fh, 16, SOCK_RAW, 4) or return;
        $netlink = $fh;
    }

    my $family = sockaddr_family($local);
    my $unpack = $family == AF_INET6
        ? \&unpack_sockaddr_in6 : \&unpack_sockaddr_in;
    my ($local_port, $local_addr) = $unpack->($local);
    my ($remote_port, $remote_addr) = $unpack->($remote);

    # struct inet_diag_req_v2, any state, any cookie
    my $request = pack 'C4 L nn a16 a16 L L2', $family, IPPROTO_TCP, 0, 0,
        0xffffffff, $local_port, $remote_port, $local_addr, $remote_addr, 0,
        0xffffffff, 0xffffffff;

    # SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST
    my $message = pack('L S S L L', 16 + length $request, 20, 1, 1, 0)
        . $request;

    CORE::send($netlink, $message, 0) or return;
    defined recv($netlink, my $answer, 8192, 0) or return;

    my ($type) = unpack 'x4 S', $answer;

    if ($type == 2) {
        my ($error) = unpack 'x16 l', $answer;
        return $error == -ENOENT() ? {} : undef;
    }

    # struct inet_diag_msg; without a connection the kernel may answer with
    # the listening socket
    my ($state, $to, $received, $inode)
        = unpack 'x16 x C x2 x2 n x36 x8 x4 L x8 L', $answer;

    return $to == $remote_port
        ? { state => $state, received => $received, inode => $inode } : {};
}

sub _proc {
    my ($local, $remote) = @_;

    for my $file ('/proc/net/tcp', '/proc/net/tcp6') {
        my $want = _proc_address($local, $file) // next;
        $want .= ' ' . _proc_address($remote, $file);

        open my $fh, '<', $file or next;

        while (<$fh>) {
            next if index($_, $want) < 0;

            my @field = split;
            my ($received) = $field[4] =~ /:(.*)/;

            return {
                state    => hex $field[3],
                received => hex $received,
                inode    => $field[9],
            };
        }
    }

    return {};
}

# Reads once, whatever is there; false at the deadline or after the end.
sub fill {
    my ($self, $until, $most) = @_;

    return 0 if $self->{end} || !$self->{socket};

    while (1) {
        my $n = sysread($self->{socket}, $self->{in}, $most || 65536,
            length $self->{in});

        if (defined $n) {
            $self->{end} = 'eof' if $n == 0;
            return $n;
        }

        next if $! == EINTR;

        if ($! != EAGAIN) {
            $self->{end} = 'reset';
            return 0;
        }

        $self->_wait(read => $until) or return 0;
    }
}

# The next line with its end.  At the end of the connection or the deadline
# the bytes that are there, so that a failed comparison shows them.
sub line {
    my ($self) = @_;

    my $until = time + $DEADLINE;
    my $from = 0;
    my $at;

    while (($at = index $self->{in}, "\n", $from) < 0) {
        $from = length $self->{in};
        $self->fill($until) or return $self->_short('a line');
    }

    return substr $self->{in}, 0, $at + 1, '';
}

# The next reply, all of its lines.
sub reply {
    my ($self) = @_;

    my $reply = my $line = $self->line;

    if ($line =~ /^([0-9]{3})-/) {
        my $last = "$1 ";

        do {
            $line = $self->line;
            $reply .= $line;
        } until $line !~ /\n\z/ || index($line, $last) == 0;
    }

    return $reply;
}

# Exactly so many bytes.
sub bytes {
    my ($self, $n) = @_;

    my $until = time + $DEADLINE;

    while (length $self->{in} < $n) {
        $self->fill($until) or return $self->_short("$n bytes");
    }

    return substr $self->{in}, 0, $n, '';
}

# Everything up to the end of the connection.
sub rest {
    my ($self) = @_;

    my $until = time + $DEADLINE;

    1 while $self->fill($until);

    remark('the connection did not end') unless $self->{end};

    my $in = $self->{in};
    $self->{in} = '';

    return $in;
}

# How the connection ends: 'eof' for a clean end, 'reset', or '' if it does
# not end before the deadline; bytes that came before show in the answer.
sub ended {
    my ($self) = @_;

    my $rest = $self->rest;

    return length $rest ? "$self->{end} after " . length $rest : $self->{end};
}

# What is there without waiting; not an event, so only good after one.
sub waiting {
    my ($self) = @_;

    while (!$self->{end} && IO::Select->new($self->{socket})->can_read(0)) {
        $self->fill(time);
    }

    return $self->{in};
}

# Sends bytes into one connection and reads them out of another in turns, so
# that neither blocks the other.  until => code that is given what came so far
# and tells when it is enough, most => bytes of one read.  Returns what came.
sub pump {
    my ($from, $bytes, $to, %arg) = @_;

    my $until = time + $DEADLINE;
    my $got = '';

    until ($arg{until}->($got)) {
        if (length $bytes) {
            my $n = $from->write_some($bytes) // last;
            substr $bytes, 0, $n, '';
        }

        $to->fill(length $bytes ? time + 0.001 : $until, $arg{most});

        # a slow peer is no dead one
        $until = time + $DEADLINE if length $to->{in};

        $got .= $to->{in};
        $to->{in} = '';

        if ($to->{end} || time > $until) {
            remark('pump: ' . ($to->{end} || 'deadline'));
            last;
        }
    }

    return $got;
}

# No more bytes from here, a clean end to this direction.
sub finish {
    my ($self) = @_;

    return shutdown $self->{socket}, 1;
}

sub reset {
    my ($self) = @_;

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);

    return $self->close;
}

sub close {
    my ($self) = @_;

    my $socket = delete $self->{socket} or return 1;

    return CORE::close $socket;
}

sub remark {
    my ($text) = @_;

    Test::More::diag($text) unless $QUIET;
}

sub _short {
    my ($self, $what) = @_;

    remark("missing $what: " . ($self->{end} || 'deadline'));

    my $in = $self->{in};
    $self->{in} = '';

    return $in;
}

sub _wait {
    my ($self, $what, $until) = @_;

    my $left = ($until // time + $DEADLINE) - time;
    return 0 if $left <= 0;

    my $select = IO::Select->new($self->{socket});

    return $what eq 'read'
        ? $select->can_read($left)
        : $select->can_write($left);
}

sub _address {
    my ($packed) = @_;

    my $family = sockaddr_family($packed);

    return ('unix', 0) if $family == AF_UNIX;

    my ($port, $addr) = $family == AF_INET6
        ? unpack_sockaddr_in6($packed)
        : unpack_sockaddr_in($packed);

    return (Socket::inet_ntop($family, $addr), $port);
}

# An address as /proc/net/tcp or tcp6 writes it.
sub _proc_address {
    my ($packed, $file) = @_;

    my $wide = $file =~ /6$/;
    my ($port, $addr);

    if (sockaddr_family($packed) == AF_INET6) {
        ($port, $addr) = unpack_sockaddr_in6($packed);

        if (!$wide) {
            return unless substr($addr, 0, 12) eq "\0" x 10 . "\xff\xff";
            $addr = substr $addr, 12;
        }

    } else {
        ($port, $addr) = unpack_sockaddr_in($packed);
        $addr = "\0" x 10 . "\xff\xff" . $addr if $wide;
    }

    return join('', map { sprintf '%08X', $_ } unpack 'L*', $addr)
        . sprintf ':%04X', $port;
}

1;
