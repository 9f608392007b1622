package Test::Nginx::FtpNet;

# The same as Test::Nginx::Ftp on a network of its own: three hosts, each a
# network namespace, joined by two cables.
#
#     client -------------------- proxy ----------------- server
#     203.0.113.10    203.0.113.5       192.0.2.1         192.0.2.91
#     2001:db8:1::10  2001:db8:1::5     2001:db8:2::1     2001:db8:2::91
#
# The client has a second address (11), the server three (91, 92, 93).  These
# are the addresses of the configurations in nginx-conf, so that those can run
# here as they are.
#
# The proxy is the gateway of the other two, but forwards nothing: what arrives
# at the other side went through nginx.  It checks source addresses strictly
# (rp_filter), as many distributions do.
#
# The namespaces have no names: they live as long as a process is in them or
# the test holds their descriptors, so that nothing is left behind, however the
# test ends.  The test itself is in the proxy, nginx and all commands that it
# starts too; sockets of the client and the server are made in a short visit to
# their namespace, where they stay.
#
# Needs root.  Where namespaces are not permitted a test is skipped; with CI in
# the environment it fails.

use strict;
use warnings;

use parent 'Test::Nginx::Ftp';

use Config ();
use Test::More ();

use Test::Nginx::FtpClient;
use Test::Nginx::FtpServer;

use constant CLONE_NEWNET => 0x40000000;

# Of unshare(2) and setns(2).
my %calls = (
    'x86_64'    => [272, 308],
    'i.86'      => [310, 346],
    'aarch64|riscv64|loongarch64' => [97, 268],
    'arm'       => [337, 375],
    'powerpc64' => [282, 350],
    's390x'     => [303, 339],
);

# Connections come from the first IPv4 address and, as the kernel has it, from
# the last one of IPv6.
my %hosts = (
    client => {
        gateway => ['203.0.113.5', '2001:db8:1::5'],
        cables  => { proxy => [qw(203.0.113.10/24 203.0.113.11/24
            2001:db8:1::11/64 2001:db8:1::10/64)] },
    },
    proxy => {
        cables => {
            client => [qw(203.0.113.5/24 2001:db8:1::5/64)],
            server => [qw(192.0.2.1/24 2001:db8:2::1/64)],
        },
    },
    server => {
        gateway => ['192.0.2.1', '2001:db8:2::1'],
        cables  => { proxy => [qw(192.0.2.91/24 192.0.2.92/24 192.0.2.93/24
            2001:db8:2::91/64 2001:db8:2::92/64 2001:db8:2::93/64)] },
    },
);

my %address = (
    client => { 4 => '203.0.113.10', 6 => '2001:db8:1::10' },
    other  => { 4 => '203.0.113.11', 6 => '2001:db8:1::11' },
    proxy  => { 4 => '203.0.113.5', 6 => '2001:db8:1::5' },
    behind => { 4 => '192.0.2.1', 6 => '2001:db8:2::1' },
    server => { 4 => '192.0.2.91', 6 => '2001:db8:2::91' },
    second => { 4 => '192.0.2.92', 6 => '2001:db8:2::92' },
    third  => { 4 => '192.0.2.93', 6 => '2001:db8:2::93' },
);

# user => whose the workers are (root)
sub new {
    my ($class, %arg) = @_;

    # where ip and nft are
    $ENV{PATH} .= ':/usr/sbin:/sbin';

    my $spaces = _namespaces();
    my $self = $class->SUPER::new(%arg);

    $self->{spaces} = $spaces;
    $self->{user} = $arg{user};
    $self->_enter('proxy');
    $self->_cable($_, 'proxy') for qw(client server);

    for my $host (sort keys %hosts) {
        $self->in($host => sub { $self->_addresses($host) });
    }

    return $self;
}

sub conf {
    my ($self, @arg) = @_;

    my $conf = $self->SUPER::conf(@arg);

    $conf =~ s/^user root;/user $self->{user};/m if $self->{user};

    return $conf;
}

# Address of client, other (client), proxy, behind (the proxy's on the other
# side), server, second and third (server).
sub address {
    my ($self, $whose, $family) = @_;

    return $address{$whose}{$family // 4} // die "no address of $whose\n";
}

# ---- hosts

# Runs the code in that host.
sub in {
    my ($self, $host, $code) = @_;

    my $here = $self->{here};

    $self->_enter($host);
    my @result = eval { $code->() };
    my $error = $@;
    $self->_enter($here);

    die $error if $error;

    return wantarray ? @result : $result[0];
}

# Runs a command in the proxy that must succeed.
sub command {
    my ($self, @command) = @_;

    my ($status, $said) = $self->try(@command);
    die "@command: $said\n" if $status;

    return $said;
}

# The same for one that may fail: its exit status, and what it wrote.
sub try {
    my ($self, @command) = @_;

    my $pid = open(my $fh, '-|') // die "cannot fork: $!\n";

    if ($pid == 0) {
        alarm 0;
        open STDERR, '>&', \*STDOUT;
        { no warnings; exec @command; }
        print "cannot run: $!\n";
        STDOUT->flush;
        POSIX::_exit(127);
    }

    local $/;
    my $said = <$fh> // '';
    close $fh;

    return ($? >> 8 || $?, $said);
}

# A ruleset for nft.
sub nft {
    my ($self, $rules) = @_;

    $self->command('nft', '-f', $self->write_file('rules.nft', $rules));

    return;
}

# Nothing comes back from that side of a connection; without one all does.
sub mute {
    my ($self, $conn) = @_;

    my $rule = $conn ? 'ip saddr ' . $conn->local_addr . ' tcp sport '
        . $conn->local_port . ' drop' : '';

    $self->nft(<<"END");
table inet ftp_test
delete table inet ftp_test
table inet ftp_test {
    chain input {
        type filter hook input priority 0;
        $rule
    }
}
END

    return;
}

# scripts/redirect with these arguments.
sub redirect {
    my ($self, @arg) = @_;

    return $self->command($self->root . '/scripts/redirect', @arg);
}

sub _enter {
    my ($self, $host) = @_;

    my $fh = $self->{spaces}{$host} or die "no host $host\n";

    _call(setns => fileno $fh, CLONE_NEWNET) or die "setns to $host: $!\n";
    $self->{here} = $host;

    return;
}

# One new namespace for each host, by name; leaves the test in the last one.
sub _namespaces {
    my %spaces;

    for my $host (sort keys %hosts) {
        if (!_call(unshare => CLONE_NEWNET)) {
            my $why = "network namespaces are not permitted: $!";

            die "$why\n" if $ENV{CI};
            Test::More::plan(skip_all => $why);
        }

        open $spaces{$host}, '<', '/proc/self/ns/net'
            or die "cannot open a namespace: $!\n";
    }

    return \%spaces;
}

sub _call {
    my ($name, @arg) = @_;

    for my $arch (keys %calls) {
        next if $Config::Config{archname} !~ /^(?:$arch)\b/;

        my $number = $calls{$arch}[$name eq 'setns'];
        return syscall($number, @arg) == 0;
    }

    die "the number of $name is not known for $Config::Config{archname}\n";
}

# A cable from the proxy, where the test is, to another host; each end is named
# after the other side.
sub _cable {
    my ($self, $host, $peer) = @_;

    my $space = "/proc/$$/fd/" . fileno $self->{spaces}{$host};

    # When both ends happen to have the same index, the kernel takes its time
    # (a second) to see that the first one has a carrier.
    $self->command(qw(ip link add), $host, index => ++$self->{cables} + 100,
        qw(type veth peer name), $peer, netns => $space);

    return;
}

sub _addresses {
    my ($self, $host) = @_;

    # a new namespace takes over what the machine has for IPv4
    _sysctl('ipv4/ip_forward', 0);
    _sysctl('ipv4/conf/all/rp_filter', 0);

    # a tentative address can neither be bound nor be answered
    _sysctl('ipv6/conf/default/accept_dad', 0);
    _sysctl('ipv6/conf/all/accept_dad', 0);

    # Hosts on one kernel would choose the same port for the same destination,
    # one after the other; see t/net/ftp_client_address.t.  The client's are
    # below.
    _sysctl('ipv4/ip_local_port_range', '45000 60999');

    my $cables = $hosts{$host}{cables};
    my $batch = "link set lo up\n";

    for my $cable (sort keys %$cables) {
        _sysctl("ipv6/conf/$cable/accept_dad", 0);
        _sysctl("ipv4/conf/$cable/rp_filter", 1);

        $batch .= "address add $_ dev $cable"
            . (/:/ ? " nodad\n" : "\n") for @{$cables->{$cable}};
        $batch .= "link set $cable up\n";
    }

    $batch .= "route add default via $_\n" for @{$hosts{$host}{gateway} // []};

    $self->command('ip', '-batch', $self->write_file("$host.ip", $batch));

    return;
}

sub _sysctl {
    my ($name, $value) = @_;

    open my $fh, '>', "/proc/sys/net/$name" or die "no sysctl $name: $!\n";
    print $fh $value;
    close $fh or die "cannot set $name: $!\n";

    return;
}

sub sysctl {
    my ($self, $name, $value) = @_;

    _sysctl($name, $value);

    return;
}

# ---- steps that many tests share

# A fake server on the server host.
sub server {
    my ($self, %arg) = @_;

    return $self->in(server => sub {
        Test::Nginx::FtpNet::Server->new($self,
            addr => $address{server}{4}, %arg);
    });
}

# A connection from the client host, or another one (host => its name).
sub connect {
    my ($self, %arg) = @_;

    return Test::Nginx::FtpNet::Client->connect(net => $self, %arg);
}

# A control connection after its greeting, as in Test::Nginx::Ftp, to addr and
# port.
sub session {
    my ($self, $server, %arg) = @_;

    my $client = $self->connect(port => 21, %arg);
    my $peer = $server->accept;

    $peer->send("220 ready\r\n");

    my $greeting = $client->line;
    die "no greeting but '$greeting'\n" if $greeting ne "220 ready\r\n";

    return ($client, $peer);
}

# The worker that serves this connection of the client.  Its other end is found
# by the client's address and port alone, as the rest may be rewritten.
sub worker_of {
    my ($self, $conn) = @_;

    my $found;

    $self->wait_for('a worker to accept', sub {
        my $inode = _inode($conn) or return 0;

        for my $pid ($self->workers) {
            for my $fd (glob "/proc/$pid/fd/*") {
                my $to = readlink $fd or next;
                $found = $pid if $to eq "socket:[$inode]";
            }
        }

        return $found;
    });

    return $found;
}

sub _inode {
    my ($conn) = @_;

    my $client = getsockname $conn->socket;

    for my $file ('/proc/net/tcp', '/proc/net/tcp6') {
        my $want = Test::Nginx::FtpConn::_proc_address($client, $file) // next;

        open my $fh, '<', $file or next;

        while (my $row = <$fh>) {
            my @field = split ' ', $row;
            return $field[9] if $field[2] eq $want && $field[9];
        }
    }

    return;
}

# A data connection at the announced port: the client's end, the server's.
sub data {
    my ($self, $c, $s, $command) = @_;

    my $listener = $self->server(addr => $s->local_addr);
    my $reply = $self->passive($c, $s, $listener, $command);
    my $near = $c->data($c->passive_port($reply));

    return ($near, $listener->accept);
}

# One transfer each way; what went wrong, or nothing.  peer => address that the
# server shall see.
sub both_ways {
    my ($self, $c, $s, $command, %arg) = @_;

    for my $way ('download', 'upload') {
        my ($near, $far) = $self->data($c, $s, $command);

        my $peer = $far->peer_addr;
        return "$way: from $peer" if $arg{peer} && $peer ne $arg{peer};

        my $error = $self->transfer($c, $s, $way, $near, $far);
        return "$way: $error" if $error;
    }

    return '';
}

# A transfer on a data connection, from its command to its last reply; what went
# wrong, or nothing.
sub transfer {
    my ($self, $c, $s, $way, $near, $far) = @_;

    return $self->dialog($c, $s,
            ($way eq 'upload' ? 'STOR f' : 'RETR f') => '150 now')
        || $self->move($way, $near, $far)
        || $self->complete($c, $s);
}

# The last reply of a transfer.
sub complete {
    my ($self, $c, $s) = @_;

    $s->send("226 done\r\n");
    my $told = $c->line;

    return $told eq "226 done\r\n" ? '' : "told $told";
}

# Moves bytes between both ends of a data connection and ends it.
sub move {
    my ($self, $way, $near, $far) = @_;

    my ($from, $to) = $way eq 'upload' ? ($near, $far) : ($far, $near);
    my $bytes = join('', map { chr } 0 .. 255) x 300;

    $from->send($bytes);
    $from->finish;

    my $got = $to->rest;
    return length($got) . ' bytes' if $got ne $bytes;
    return "end: $to->{end}" if $to->{end} ne 'eof';

    $to->close;

    my $end = $from->ended;
    return $end eq 'eof' ? '' : "other end: $end";
}

# ---- ends of connections that remember their host

package Test::Nginx::FtpNet::Client;

use parent -norequire => 'Test::Nginx::FtpClient';

# Every connection has a port of its own: of two that are redirected to one
# port of the proxy the kernel would give one another source port.
my $next_port = 33000;

sub connect {
    my ($class, %arg) = @_;

    my $net = delete $arg{net};
    my $host = delete $arg{host} // 'client';

    $arg{from} //= $next_port++;

    my $self = $net->in($host => sub { $class->SUPER::connect(%arg) });
    $self->{net} = $net;
    $self->{host} = $host;

    return $self;
}

sub data {
    my ($self, $port, %arg) = @_;

    die "no data port\n" unless $port;

    return ref($self)->connect(
        net  => $self->{net},
        host => $self->{host},
        addr => $self->{addr},
        bind => $self->{bind},
        port => $port,
        %arg,
    );
}

package Test::Nginx::FtpNet::Server;

use parent -norequire => 'Test::Nginx::FtpServer';

sub new {
    my ($class, $net, %arg) = @_;

    my $self = $class->SUPER::new(%arg);
    $self->{net} = $net;

    return $self;
}

sub passive {
    my ($self, %arg) = @_;

    return $self->{net}->server(addr => $self->{addr}, %arg);
}

1;
