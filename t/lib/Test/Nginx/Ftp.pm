package Test::Nginx::Ftp;

# Runs nginx with this module for one test: its own folder, its own block of
# ports, and at the end a look at the logs, which no test can leave out.
#
# Environment:
#   TEST_NGINX_BINARY    nginx to run (/usr/sbin/nginx)
#   TEST_NGINX_MODULE    the module (what scripts/build leaves under target/)
#   TEST_NGINX_GLOBALS   load_module lines in front of the configuration
#   TEST_NGINX_VALGRIND  run nginx under valgrind
#   TEST_NGINX_LEAVE     keep the folder
#   TEST_NGINX_DEADLINE  seconds that one wait may last

use strict;
use warnings;

use Cwd qw(abs_path);
use Errno qw(EADDRINUSE);
use Fcntl qw(:flock);
use File::Basename qw(dirname);
use File::Spec ();
use File::Temp ();
use IO::Socket::IP;
use POSIX qw(:sys_wait_h);
use Socket qw(SOCK_STREAM);
use Test::More ();
use Time::HiRes qw(time);
use version ();

use Test::Nginx::FtpClient;
use Test::Nginx::FtpConn;
use Test::Nginx::FtpServer;

# Ports of one test: nginx listens on these only.  Everything else (fake
# servers, their data listeners) takes what the kernel gives.
use constant BLOCK => 64;
use constant FIRST_BLOCK => 12000;

my $root = abs_path(dirname(__FILE__) . '/../../../..');
my @running;

$SIG{PIPE} = 'IGNORE';
$SIG{ALRM} = sub { die "the test took too long\n" };
$SIG{INT} = $SIG{TERM} = sub { die "stopped by a signal\n" };

sub new {
    my ($class, %arg) = @_;

    my $factor = $ENV{TEST_NGINX_VALGRIND} ? 8 : 1;
    alarm(($arg{seconds} // 120) * $factor);

    my $self = bless {
        binary => $ENV{TEST_NGINX_BINARY} || '/usr/sbin/nginx',
        owner  => $$,
        dir    => File::Temp->newdir('ftp-XXXXXXXX', TMPDIR => 1,
            CLEANUP => !$ENV{TEST_NGINX_LEAVE}),
    }, $class;

    # readable for workers that are not root
    chmod 0755, "$self->{dir}";
    mkdir "$self->{dir}/logs";

    Test::More::note("in $self->{dir}") if $ENV{TEST_NGINX_LEAVE};

    $self->_take_ports;

    push @running, $self;

    return $self;
}

sub dir { "$_[0]{dir}" }

# The repository.
sub root { $root }

# ---- ports

sub port {
    my ($self, $n) = @_;

    die "port $n is outside the block\n" if $n < 0 || $n >= BLOCK;

    return $self->{port} + $n;
}

# A range of the block as listen writes it.
sub range {
    my ($self, $from, $to) = @_;

    return $self->port($from) . '-' . $self->port($to);
}

# Whether a port is one of that range.
sub in_range {
    my ($self, $port, $from, $to) = @_;

    return defined $port && $port >= $self->port($from)
        && $port <= $self->port($to);
}

# A block of ports that no other test has (a lock that ends with the process)
# and that nobody else uses now (bound once).  It lies below the ports that
# the kernel gives away by itself.
sub _take_ports {
    my ($self) = @_;

    my $end = 32768;

    if (open my $fh, '<', '/proc/sys/net/ipv4/ip_local_port_range') {
        ($end) = split ' ', <$fh>;
    }

    my $blocks = int(($end - FIRST_BLOCK) / BLOCK);
    die "no room for ports below $end\n" if $blocks < 1;

    my $locks = File::Spec->tmpdir . "/ngx-ftp-ports-$>";
    mkdir $locks;

    my $first = int rand $blocks;

    for my $i (0 .. $blocks - 1) {
        my $port = FIRST_BLOCK + BLOCK * (($first + $i) % $blocks);

        open my $lock, '>', "$locks/$port"
            or die "cannot open $locks/$port: $!\n";
        flock $lock, LOCK_EX | LOCK_NB or next;

        next if grep { !_is_free($_) } $port .. $port + BLOCK - 1;

        $self->{lock} = $lock;
        $self->{port} = $port;
        return;
    }

    die "no free block of ports\n";
}

sub _is_free {
    my ($port) = @_;

    for my $addr ('0.0.0.0', '::') {
        my $socket = IO::Socket::IP->new(
            LocalHost => $addr,
            LocalPort => $port,
            Type      => SOCK_STREAM,
            V6Only    => 1,
            ReuseAddr => 1,
            Listen    => 1,
        );

        # a machine without IPv6 has other errors
        return 0 if !$socket && $! == EADDRINUSE;
    }

    return 1;
}

# ---- configuration

sub write_file {
    my ($self, $name, $content) = @_;

    my $path = "$self->{dir}/$name";

    open my $fh, '>', $path or die "cannot write $path: $!\n";
    print $fh $content;
    close $fh or die "cannot write $path: $!\n";

    return $path;
}

sub read_file {
    my ($self, $name) = @_;

    open my $fh, '<', "$self->{dir}/$name" or return '';
    local $/;

    return <$fh> // '';
}

# The load_module lines: the stream module where it is dynamic, then ours.
sub globals {
    my ($self) = @_;

    my $globals = $ENV{TEST_NGINX_GLOBALS};

    if (!defined $globals) {
        $globals = '';

        if ($self->build_info =~ /--with-stream=dynamic/) {
            my ($modules) = $self->build_info =~ /--modules-path=(\S+)/;
            $modules //= '/usr/lib/nginx/modules';
            $globals = "load_module $modules/ngx_stream_module.so;\n";
        }
    }

    $globals =~ s/load_module\s+[^;]*ftp_proxy_module[^;]*;//g if $self->{plain};

    if (!$self->{plain} && $globals !~ /ftp_proxy_module/) {
        $globals .= "\nload_module " . $self->module . ";\n";
    }

    return $globals;
}

sub module {
    my ($self) = @_;

    return $ENV{TEST_NGINX_MODULE} if $ENV{TEST_NGINX_MODULE};

    my ($version) = $self->build_info =~ m{nginx/([0-9.]+)};
    my $target = $ENV{CARGO_TARGET_DIR} || "$root/target";

    return "$target/nginx-$version/ngx_stream_ftp_proxy_module.so";
}

sub build_info {
    my ($self) = @_;

    return $self->{build_info} //= `$self->{binary} -V 2>&1`;
}

# Whether this nginx is at least that version.
sub at_least {
    my ($self, $wanted) = @_;

    my ($version) = $self->build_info =~ m{nginx/([0-9.]+)};

    return version->parse("v$version") >= version->parse("v$wanted");
}

# Runs nginx without the module.
sub plain {
    my ($self) = @_;

    $self->{plain} = 1;

    return $self;
}

# A whole nginx.conf around the content of its stream block.
#   main => lines for the main context, workers => how many (2),
#   connections => worker_connections, level => of error_log (info),
#   daemon => whether nginx leaves its parent, which an upgrade needs
sub conf {
    my ($self, $stream, %arg) = @_;

    my $workers = $arg{workers} // 2;
    my $connections = $arg{connections} // 1024;
    my $level = $arg{level} // 'info';
    my $main = $arg{main} // '';
    my $daemon = $arg{daemon} ? 'on' : 'off';
    my $user = $> == 0 ? 'user root;' : '';

    my $head = $self->globals . <<"END";
daemon $daemon;
$user
worker_processes $workers;
pid nginx.pid;
error_log logs/error.log $level;
$main
events {
    worker_connections $connections;
}
stream {
END

    $self->{stream_line} = () = $head =~ /\n/g;

    return "$head$stream}\n";
}

# The line of nginx.conf on which the n-th line of the stream block stands.
sub stream_line {
    my ($self, $n) = @_;

    return $self->{stream_line} + $n;
}

# nginx -t of that stream block: whether it passed, and what nginx said.
sub check {
    my ($self, $stream, %arg) = @_;

    return $self->check_file($self->write_file('check.conf',
        $self->conf($stream, %arg)));
}

sub check_file {
    my ($self, $path) = @_;

    my $said = `$self->{binary} -t -p $self->{dir}/ -e logs/check.log \\
        -c $path 2>&1`;

    return ($? == 0, $said);
}

# ---- running

# With whole => text that is the configuration, which must set what conf() does.
sub run {
    my ($self, $stream, %arg) = @_;

    $self->write_file('nginx.conf',
        $arg{whole} // $self->conf($stream, %arg));

    my @command = ($self->{binary}, '-p', "$self->{dir}/", '-c', 'nginx.conf',
        '-e', 'logs/error.log');

    unshift @command, 'valgrind', '-q', '--leak-check=full',
        '--show-leak-kinds=definite', '--errors-for-leak-kinds=definite',
        "--log-file=$self->{dir}/logs/valgrind.%p",
        "--suppressions=$root/t/lib/valgrind.suppress"
        if $ENV{TEST_NGINX_VALGRIND};

    my $pid = fork // die "cannot fork: $!\n";

    if ($pid == 0) {
        alarm 0;
        open STDOUT, '>>', "$self->{dir}/logs/output";
        open STDERR, '>&', \*STDOUT;
        { no warnings; exec @command; }
        POSIX::_exit(127);
    }

    $self->{master} = $pid;

    if ($arg{daemon}) {
        waitpid $pid, 0;
        $self->{daemon} = 1;
        $self->wait_for('a pid file', sub {
            ($self->{master}) = $self->read_file('nginx.pid') =~ /^(\d+)$/;
        });
    }

    my $started = $self->wait_for('nginx to start', sub {
        return -s "$self->{dir}/nginx.pid"
            && $self->workers == ($arg{workers} // 2)
            || $self->_is_gone;
    });

    if (!$started || !$self->{master}) {
        Test::More::diag($self->log, $self->read_file('logs/output'));
        die "nginx did not start\n";
    }

    return $self;
}

# A new configuration; comes back when new workers serve and the old ones have
# closed their listening sockets.  Returns the new workers.
sub reload {
    my ($self, $stream, %arg) = @_;

    my @old = $self->workers;

    $self->write_file('nginx.conf', $self->conf($stream, %arg)) if $stream;

    kill HUP => $self->{master};

    $self->wait_for('the old workers to leave', sub {
        $self->leaving(@old);
    }) or die "nginx did not reload\n";

    my %old = map { $_ => 1 } @old;

    return grep { !$old{$_} } $self->workers;
}

# A binary upgrade: a second master with workers of its own.  Comes back when
# the workers of the first have closed their listening sockets.
sub upgrade {
    my ($self) = @_;

    my @old = $self->workers;

    kill USR2 => $self->{master};

    $self->wait_for('a new master', sub {
        my ($pid) = $self->read_file('nginx.pid') =~ /^(\d+)$/ or return 0;
        return 0 if $pid == $self->{master};

        $self->{second} = $pid;
        return $self->workers == 2 * @old;
    }) or die "no new master\n";

    kill WINCH => $self->{master};

    $self->wait_for('the old workers to leave', sub { $self->leaving(@old) });

    return;
}

# Whether all of these workers are on their way out.
sub leaving {
    my ($self, @workers) = @_;

    my %left = map { /#(\d+): gracefully shutting down/ ? ($1 => 1) : () }
        $self->lines(qr/gracefully shutting down/);

    return !grep { !$left{$_} } @workers;
}

# Kills a worker and waits for the next one; returns that.
sub kill_worker {
    my ($self, $worker) = @_;

    my %old = map { $_ => 1 } $self->workers;
    my @new;

    kill KILL => $worker;

    $self->wait_for('a new worker', sub {
        return @new = grep { !$old{$_} } $self->workers;
    });

    return $new[0];
}

# Pids of the workers that live, old ones of a reload included.  The master
# has no other children here, but has them in the log.
sub workers {
    my ($self) = @_;

    my %started = map { /start worker process (\d+)$/ ? ($1 => 1) : () }
        $self->lines(qr/start worker process \d+$/);

    return grep {
        my ($state, $parent) = _stat($_);
        $state ne 'Z' && ($parent == ($self->{master} // 0)
            || $parent == ($self->{second} // 0));
    } sort { $a <=> $b } keys %started;
}

# Resident kilobytes of a worker (the first).
sub memory {
    my ($self, $worker) = @_;

    $worker //= ($self->workers)[0];

    open my $fh, '<', "/proc/$worker/status" or return 0;
    my ($kilobytes) = join('', <$fh>) =~ /^VmRSS:\s+(\d+)/m;

    return $kilobytes;
}

# The worker that has accepted this connection of the test; waits for it.
sub worker_of {
    my ($self, $conn) = @_;

    my $found;

    $self->wait_for('a worker to accept', sub {
        my $row = $conn->peer_row or return 1;
        return 0 if !$row->{inode};

        for my $pid ($self->workers) {
            for my $fd (glob "/proc/$pid/fd/*") {
                my $to = readlink $fd or next;
                $found = $pid if $to eq "socket:[$row->{inode}]";
            }
        }

        return $found;
    });

    return $found;
}

# Runs the code while only that worker can accept connections.
sub only_worker {
    my ($self, $worker, $code) = @_;

    my @others = grep { $_ != $worker } $self->workers;

    for my $pid (@others) {
        kill STOP => $pid;
        $self->wait_for('a worker to stop', sub { (_stat($pid))[0] eq 'T' });
    }

    my @result = eval { $code->() };
    my $error = $@;

    kill CONT => @others if @others;

    die $error if $error;

    return wantarray ? @result : $result[0];
}

# Runs the code while that worker sleeps; it finds all at once when it wakes.
sub paused {
    my ($self, $worker, $code) = @_;

    kill STOP => $worker;
    $self->wait_for('a worker to stop', sub { (_stat($worker))[0] eq 'T' });

    eval { $code->() };
    my $error = $@;

    kill CONT => $worker;

    die $error if $error;

    return;
}

# State letter and parent of a process.
sub _stat {
    my ($pid) = @_;

    if (open my $fh, '<', "/proc/$pid/stat") {
        return ($1, $2) if (<$fh> // '') =~ /.*\) (\S) (\d+)/;
    }

    return ('Z', 0);
}

# Ends nginx gracefully.  Every connection of the test is closed before, so
# what keeps a worker from leaving is a session that it forgot.
sub stop {
    my ($self) = @_;

    return 1 unless $self->{master};

    Test::Nginx::FtpConn->close_all;

    return 1 if $self->_end('QUIT', $Test::Nginx::FtpConn::DEADLINE);

    Test::More::diag('nginx did not end gracefully');

    $self->_end('TERM', 10) || $self->_end('KILL', 10);

    return 0;
}

sub _end {
    my ($self, $signal, $seconds) = @_;

    my $until = time + $seconds;

    # the second master is a child of the first
    if ($self->{second}) {
        kill $signal => $self->{second};

        while ((_stat($self->{second}))[0] ne 'Z') {
            return 0 if time > $until;
            select undef, undef, undef, 0.01;
        }

        delete $self->{second};
    }

    kill $signal => $self->{master};

    until ($self->_is_gone) {
        return 0 if time > $until;
        select undef, undef, undef, 0.01;
    }

    return 1;
}

# Whether the master has ended; forgets it then.
sub _is_gone {
    my ($self) = @_;

    return 1 unless $self->{master};

    # a daemon is no child of the test
    return 0 if $self->{daemon}
        ? (_stat($self->{master}))[0] ne 'Z'
        : waitpid($self->{master}, WNOHANG) == 0;

    delete $self->{master};

    return 1;
}

# ---- logs

sub log { $_[0]->read_file('logs/error.log') }

# Lines of error.log that match.
sub lines {
    my ($self, $pattern) = @_;

    return grep { /$pattern/ } split /^/, $self->log;
}

# Waits until error.log has that many lines that match (1); returns the last
# of them.
sub wait_log {
    my ($self, $pattern, $count) = @_;

    my @lines;

    $self->wait_for("log $pattern", sub {
        @lines = $self->lines($pattern);
        return @lines >= ($count // 1);
    });

    return $lines[-1];
}

# Runs the code and waits for one line more that matches.
sub new_log {
    my ($self, $pattern, $code) = @_;

    my $before = $self->lines($pattern);

    $code->();

    return $self->wait_log($pattern, $before + 1);
}

# Waits for that many lines of another log (access.log) and returns them.
sub wait_access {
    my ($self, $count, $name) = @_;

    my @lines;

    $self->wait_for("$count lines of access log", sub {
        @lines = split /\n/, $self->read_file($name // 'logs/access.log');
        return @lines >= $count;
    });

    return @lines;
}

sub wait_for {
    my ($self, $what, $code) = @_;

    my $until = time + $Test::Nginx::FtpConn::DEADLINE;

    until ($code->()) {
        if (time > $until) {
            Test::More::diag("deadline passed: $what");
            return 0;
        }
        select undef, undef, undef, 0.005;
    }

    return 1;
}

# The last words of each test: nginx ends, and its logs hold nothing that
# should never be there.  allow => pattern of alerts that the test provokes.
sub done {
    my ($self, %arg) = @_;

    my @bad;

    push @bad, "nginx had to be killed\n" unless $self->stop;

    for my $line (split /^/, $self->log) {
        next unless $line =~ /\[(?:alert|emerg)\]|panic|Sanitizer
            |runtime\ error:/ix;
        next if $arg{allow} && $line =~ /$arg{allow}/;
        push @bad, $line;
    }

    push @bad, grep { /panicked|Sanitizer|runtime error:/ }
        split /^/, $self->read_file('logs/output');

    # valgrind -q writes nothing but errors
    push @bad, map { split /^/, $self->read_file("logs/$_") }
        map { m{([^/]+)$} } glob "$self->{dir}/logs/valgrind.*";

    Test::More::ok(!@bad, 'clean log');
    Test::More::diag(@bad > 80 ? @bad[0 .. 79] : @bad) if @bad;

    Test::More::done_testing();

    alarm 0;

    return;
}

# ---- steps that many tests share

sub server {
    my ($self, %arg) = @_;

    return Test::Nginx::FtpServer->new(%arg);
}

# A control connection through nginx (port 0) to that server, after its
# greeting: the client's end and the server's.
sub session {
    my ($self, $server, %arg) = @_;

    my $client = Test::Nginx::FtpClient->connect(
        port => $self->port(0), %arg);
    my $peer = $server->accept;

    $peer->send("220 ready\r\n");

    my $greeting = $client->line;
    die "no greeting but '$greeting'\n" if $greeting ne "220 ready\r\n";

    return ($client, $peer);
}

# Commands and replies in turn, both sides byte for byte; empty if all was as
# it should be, else what came instead.
sub dialog {
    my ($self, $client, $peer, @turns) = @_;

    while (my ($command, $reply) = splice @turns, 0, 2) {
        $client->command($command);

        my $got = $peer->line;
        return "server got '$got'" if $got ne "$command\r\n";

        $peer->send("$reply\r\n");

        $got = $client->reply;
        return "client got '$got'" if $got ne "$reply\r\n";
    }

    return '';
}

# PASV or EPSV as an ordinary server answers it: the client's reply.
sub passive {
    my ($self, $client, $peer, $listener, $command) = @_;

    $command //= 'PASV';

    $client->command($command);

    my $got = $peer->line;
    die "server got '$got'\n" if $got ne "$command\r\n";

    my ($hostport, $port) = ($listener->hostport, $listener->port);

    $peer->send($command =~ /^PASV/i
        ? "227 Entering Passive Mode ($hostport).\r\n"
        : "229 Entering Extended Passive Mode (|||$port|)\r\n");

    return $client->reply;
}

# The same and the data connection itself: the client's end, the server's.
# Further arguments are for the server's listener.
sub data {
    my ($self, $client, $peer, $command, %arg) = @_;

    my $listener = $self->server(addr => $peer->local_addr, %arg);
    my $reply = $self->passive($client, $peer, $listener, $command);
    my $near = $client->data($client->passive_port($reply));

    return ($near, $listener->accept);
}

# PORT or EPRT for that listener of the client, as an ordinary server answers
# it: the address and the port that the server is told.
sub active {
    my ($self, $client, $peer, $listener, $command) = @_;

    $client->command($self->active_command($listener, $command));

    my @told = $self->told($peer->line);

    $peer->send("200 okay\r\n");

    my $reply = $client->line;
    die "client got '$reply'\n" if $reply ne "200 okay\r\n";

    return @told;
}

sub active_command {
    my ($self, $listener, $command) = @_;

    $command //= 'PORT';

    return 'PORT ' . $listener->hostport if $command eq 'PORT';

    my ($addr, $port) = ($listener->{addr}, $listener->port);

    return sprintf 'EPRT |%d|%s|%d|', $addr =~ /:/ ? 2 : 1, $addr, $port;
}

# What a PORT or EPRT names; dies of anything else.
sub told {
    my ($self, $line) = @_;

    return ("$1.$2.$3.$4", $5 * 256 + $6)
        if $line =~ /\APORT (\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\r\n\z/;

    return ($1, $2) if $line =~ /\AEPRT \|1\|([0-9.]+)\|(\d+)\|\r\n\z/
        || $line =~ /\AEPRT \|2\|([0-9a-f:]+)\|(\d+)\|\r\n\z/;

    die "server got '$line'\n";
}

# The server's data connection, to what it was told.
sub dial {
    my ($self, $peer, $addr, $port, %arg) = @_;

    return Test::Nginx::FtpClient->connect(addr => $addr, port => $port,
        bind => $peer->local_addr, %arg);
}

# All of it: the client's end and the server's.  Further arguments are for the
# client's listener.
sub active_data {
    my ($self, $client, $peer, $command, %arg) = @_;

    my $listener = $self->server(addr => $client->local_addr, %arg);
    my $far = $self->dial($peer,
        $self->active($client, $peer, $listener, $command));

    return ($listener->accept, $far);
}

END {
    my $status = $?;

    for my $self (grep { defined } @running) {
        next if $self->{owner} != $$ || !$self->{master};

        # a stopped worker cannot obey
        kill CONT => $_ for $self->workers;

        $self->_end('TERM', 5) || $self->_end('KILL', 5);

        Test::More::diag($self->log) if $status;
    }

    $? = $status;
}

1;
