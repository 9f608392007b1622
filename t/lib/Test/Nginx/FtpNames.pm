package Test::Nginx::FtpNames;

# A name server in a process of its own: A records of a fixed list, one for
# each address, and an empty answer to all other questions (RFC 1035 4). Where a
# test has to say when the answer comes, it takes FtpDns.

use strict;
use warnings;

use IO::Select;
use IO::Socket::IP;
use POSIX ();
use Socket qw(SOCK_DGRAM inet_aton);

# Seconds that a record may be kept.
use constant TTL => 600;

# names => { name => [addresses] }
sub new {
    my ($class, %names) = @_;

    my $socket = IO::Socket::IP->new(
        LocalHost => '127.0.0.1',
        LocalPort => 0,
        Type      => SOCK_DGRAM,
    ) or die "cannot bind: $@\n";

    pipe my $read, my $write or die "no pipe: $!\n";

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        alarm 0;
        close $write;
        _serve($socket, $read, \%names);
        POSIX::_exit(0);
    }

    return bless { pid => $pid, port => $socket->sockport, pipe => $write,
        owner => $$ }, $class;
}

# addr:port as nginx's resolver wants it
sub at { "127.0.0.1:$_[0]{port}" }

# It ends when the test's end of the pipe is closed, however the test ends.
sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local $?;
    close $self->{pipe};
    waitpid $self->{pid}, 0;

    return;
}

sub _serve {
    my ($socket, $pipe, $names) = @_;

    my $select = IO::Select->new($socket, $pipe);

    while (1) {
        my @ready = $select->can_read;

        return if grep { $_ == $pipe } @ready;

        my $from = $socket->recv(my $query, 512) // next;
        my $answer = _answer($query, $names) // next;

        $socket->send($answer, 0, $from);
    }
}

sub _answer {
    my ($query, $names) = @_;

    my ($id, $flags, $questions) = unpack 'n3', $query;
    return if !defined $questions || $questions != 1;

    my ($at, @labels) = (12);

    while (my $length = unpack 'C', substr $query, $at, 1) {
        push @labels, substr $query, $at + 1, $length;
        $at += 1 + $length;
    }

    my ($type) = unpack 'x n', substr $query, $at;
    my $question = substr $query, 12, $at + 5 - 12;
    my $addresses = $names->{lc join '.', @labels};

    # A, class IN; the name is the one at offset 12
    my @records = map { pack 'n n n N n a4', 0xc00c, 1, 1, TTL, 4, inet_aton($_) }
        $type == 1 ? @{ $addresses || [] } : ();

    # a response with recursion; NXDOMAIN for what is not in the list
    return pack('n6', $id, $addresses ? 0x8180 : 0x8183, 1, scalar @records,
        0, 0) . $question . join '', @records;
}

1;
