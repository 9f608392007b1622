#!/usr/bin/perl

# What can go wrong where the client and the server both dial: one of them
# never comes, goes away, or its worker does.

use strict;
use warnings;

use FindBin;
use IO::Socket::UNIX;
use Socket qw(SOCK_DGRAM);
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

my $conf = <<"EOF";
    ftp_server_mode active;
    log_format ftp '\$remote_addr \$status \$ftp_data_status \$bytes_sent'
                   ' \$bytes_received';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(54)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        ftp_data_timeout 700ms;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 54)};
        ftp_data zone=ftp;
        access_log logs/access.log ftp;
    }
EOF

$t->run($conf);

# PASV until the client has its answer: the port that it is told, and what the
# server is told.
sub agree {
    my ($c, $s) = @_;

    $c->command('EPSV');

    my @told = $t->told($s->line);

    $s->send("200 okay\r\n");

    my $reply = $c->line;
    my $port = $c->passive_port($reply) or die "client got '$reply'\n";

    return ($port, @told);
}

sub data {
    my ($c, $s) = @_;

    my ($port, @told) = agree($c, $s);
    my $near = $c->data($port);

    return ($near, $t->dial($s, @told));
}

# A connection that a worker has taken, and that waits.
sub waiting {
    my ($port, $code) = @_;

    my $conn;

    $t->new_log(qr/ftp matched port $port, /, sub { $conn = $code->() });

    return $conn;
}

# The access log has such a line, one more.
sub logged {
    my ($name, $pattern) = @_;

    our %seen;
    my $wanted = ++$seen{$pattern};

    ok($t->wait_for($name, sub {
        my @lines = grep { /$pattern/ }
            split /\n/, $t->read_file('logs/access.log');
        return @lines >= $wanted;
    }), $name);
}

my ($c, $s) = $t->session($server);

# resets in the middle

for my $bytes ('', 'x', 'x' x 300_000) {
    my $name = length($bytes) . ' bytes';

    my ($near, $far) = data($c, $s);
    $far->send('!');
    is($near->bytes(1), '!', "$name joined");
    $far->send($bytes);
    ok($near->bytes(length $bytes) eq $bytes, "reset download $name");
    $far->reset;
    is($near->ended, 'reset', "reset download $name end");

    ($near, $far) = data($c, $s);
    $near->send('!');
    is($far->bytes(1), '!', "$name joined");
    $near->send($bytes);
    ok($far->bytes(length $bytes) eq $bytes, "reset upload $name");
    $near->reset;
    is($far->ended, 'reset', "reset upload $name end");
}

# the other one never comes

for my $who ('client', 'server') {
    my ($c, $s) = $t->session($server, port => $t->port(1));
    my ($port, @told) = agree($c, $s);
    my $conn;

    my $line = $t->new_log(qr/nobody to meet/, sub {
        $conn = $who eq 'client' ? $c->data($port) : $t->dial($s, @told);
        is($conn->ended, 'reset', "$who alone");
    });
    like($line, qr/\[info\].*while waiting for /, "$who alone log");
    logged("$who alone status", qr/ 502 cut 0 0\z/);

    # and is refused then
    $conn = $who eq 'server' ? $c->data($port) : $t->dial($s, @told);
    is($conn->ended, 'reset', "$who alone, the other too late");
}

# whoever waits goes away: the other one is not left alone

for my $who ('client', 'server') {
    my ($port, @told) = agree($c, $s);
    my $dial = $who eq 'client'
        ? sub { $c->data($port) } : sub { $t->dial($s, @told) };
    my $conn = waiting($who eq 'client' ? $port : $told[1], $dial);

    $t->new_log(qr/ftp data connection was reset/, sub { $conn->reset });
    is($dial->()->ended, 'reset', "$who gone, once only");
}

# FIN is no reset: nobody may be surprised by an end that comes early

{
    my ($port, @told) = agree($c, $s);
    my $near = waiting($port, sub { $c->data($port, before => 'upload') });
    $near->finish;
    my $far = $t->dial($s, @told);
    is($far->rest, 'upload', 'waiting end bytes');
    is($far->{end}, 'eof', 'waiting end');
    is($near->ended, 'eof', 'waiting end client');
}

# strangers

{
    my ($port, @told) = agree($c, $s);
    is($c->data($port, bind => '127.0.0.2')->ended, 'reset', 'stranger');
    is($t->dial($s, @told, bind => '127.0.0.92')->ended, 'reset',
        'other server');

    my $near = $c->data($port);
    my $far = $t->dial($s, @told);
    $far->send('x');
    is($near->bytes(1), 'x', 'the right ones');
    is($c->data($port)->ended, 'reset', 'second client');
    is($t->dial($s, @told)->ended, 'reset', 'second server');
    $far->finish;
    is($near->ended, 'eof', 'the right ones end');
}

# given up: PASV again, USER, a server that says no, no control connection

{
    my ($port, @told) = agree($c, $s);
    my ($near, $far) = data($c, $s);
    $far->send('x');
    is($near->bytes(1), 'x', 'second PASV');
    is($c->data($port)->ended, 'reset', 'first PASV client');
    is($t->dial($s, @told)->ended, 'reset', 'first PASV server');

    for my $who ('client', 'server') {
        ($port, @told) = agree($c, $s);
        my $conn = $who eq 'client'
            ? waiting($port, sub { $c->data($port) })
            : waiting($told[1], sub { $t->dial($s, @told) });
        agree($c, $s);
        is($conn->ended, 'reset', "second PASV, $who waited");
    }

    ($port, @told) = agree($c, $s);
    is($t->dialog($c, $s, 'USER other' => '230 in'), '', 'USER');
    is($c->data($port)->ended, 'reset', 'USER client');
    is($t->dial($s, @told)->ended, 'reset', 'USER server');

    $c->command('PASV');
    @told = $t->told($s->line);
    $s->send("500 no PORT\r\n");
    like($c->line, qr/\A425 /, 'server says no');
    is($t->dial($s, @told)->ended, 'reset', 'and dials all the same');

    my ($c2, $s2) = $t->session($server);
    ($port, @told) = agree($c2, $s2);
    my $client = waiting($port, sub { $c->data($port) });
    my $bound = $s2->local_addr;
    $s2->close;
    is($c2->ended, 'eof', 'control ends');
    is($client->ended, 'reset', 'no control connection, client');
    is($t->dial($s, @told)->ended, 'reset', 'no control connection, server');
}

# far more at once than a door has room for

{
    my ($first, $second) = $t->workers;
    my @all = map { [$t->only_worker($second, sub { $t->session($server) })] }
        1 .. 40;

    for my $one (@all) {
        my ($c, $s) = @$one;
        my ($port, @told) = agree($c, $s);
        push @$one, @told, $t->only_worker($first, sub {
            waiting($port, sub { $c->data($port) });
        });
    }

    # the client's worker sleeps
    $t->paused($first, sub {
        my $before = $t->lines(qr/ftp matched port/);

        push @$_, $t->dial(@$_[1 .. 3]) for @all;
        $t->wait_for('all servers', sub {
            $t->lines(qr/ftp matched port/) >= $before + @all;
        });
    });

    my $bad = 0;

    for my $i (0 .. $#all) {
        my ($near, $far) = @{ $all[$i] }[4, 5];
        $far->send("for $i");
        $far->finish;
        $bad++ if $near->rest ne "for $i" || $near->{end} ne 'eof';
    }

    is($bad, 0, 'a full door');
}

# what others say at the door

for my $worker ($t->workers) {
    my $known = sprintf '@ngx_stream_ftp_proxy.%08x', $worker;
    open my $fh, '<', '/proc/net/unix' or die "no sockets: $!\n";
    my ($name) = map { /(\Q$known\E\S*)/ } <$fh>;

    # not to be foreseen, or others could have it first
    like($name, qr/\.[0-9a-f]{16}\.[0-9a-f]{16}\z/, 'name of a door');
    $name =~ s/\A@/\0/;

    my $door = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $name);

    ok($door, 'a door');
    $door->send($_) for '', 'x', 'x' x 24, "\0" x 40, 'x' x 5000;

    # nothing of it gets in: a stranger's descriptor would be the worker's to
    # close, which can block it
    $door->blocking(0);
    $t->paused($worker, sub {
        my $sent = grep { defined $door->send('x' x 40) } 1 .. 2000;
        is($sent, 2000, 'strangers before the door');
    });
}

{
    my ($near, $far) = data($c, $s);
    $far->send('fine');
    is($near->bytes(4), 'fine', 'after nonsense at the door');
}

$_->close for $c, $s;

# a reload before either comes, and between the two

for my $first ('nobody', 'client', 'server') {
    my ($c, $s) = $t->session($server);
    my ($port, @told) = agree($c, $s);
    my ($near, $far);

    $near = waiting($port, sub { $c->data($port) }) if $first eq 'client';
    $far = waiting($told[1], sub { $t->dial($s, @told) }) if $first eq 'server';

    $t->reload;

    $near //= $c->data($port);
    $far //= $t->dial($s, @told);
    $near->send('reload');
    is($far->bytes(6), 'reload', "$first first, reload");
    $near->finish;
    is($far->ended, 'eof', "$first first, reload end");
    $_->close for $c, $s, $near, $far;
    $t->wait_for('the old workers to end', sub { $t->workers == 2 });
}

# a worker is killed with one that waits, and in a transfer

for my $who ('client', 'server', 'transfer') {
    my ($doomed, $other) = $t->workers;
    my ($c, $s) = $t->only_worker($other, sub { $t->session($server) });
    my ($port, @told) = agree($c, $s);
    my $near = sub { $c->data($port) };
    my $far = sub { $t->dial($s, @told) };

    if ($who eq 'transfer') {
        my $a = $t->only_worker($doomed, sub { waiting($port, $near) });
        my $b = $t->only_worker($other, sub { waiting($told[1], $far) });
        $b->send('part');
        is($a->bytes(4), 'part', 'before kill');
        $t->kill_worker($doomed);
        is($a->ended, 'reset', 'killed client');
        is($b->ended, 'reset', 'killed server');

    } else {
        my ($first, $second, $at) = $who eq 'client'
            ? ($near, $far, $port) : ($far, $near, $told[1]);
        my $conn = $t->only_worker($doomed, sub { waiting($at, $first) });
        $t->kill_worker($doomed);
        is($conn->ended, 'reset', "killed with $who");
        is($second->()->ended, 'reset', "killed with $who, the other");
    }

    is($t->dialog($c, $s, NOOP => '200 okay'), '', "$who control lives");
}

# workers leave with one that waits

{
    $t->reload($conf, main => 'worker_shutdown_timeout 1s;');

    my ($c, $s) = $t->session($server);
    my ($port) = agree($c, $s);
    my $near = waiting($port, sub { $c->data($port) });
    my ($c2, $s2) = $t->session($server);
    my (undef, @told) = agree($c2, $s2);
    my $far = waiting($told[1], sub { $t->dial($s2, @told) });

    $t->reload;
    is($near->ended, 'reset', 'shutdown client');
    is($far->ended, 'reset', 'shutdown server');
}

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by \d+/);
