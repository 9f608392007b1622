#!/usr/bin/perl

# TLS in active mode and between the modes, when it does not come to pass:
# whichever side stops, goes or talks nonsense in whichever phase, the other one
# sees a reset, and the control connection goes on.  Workers that leave or are
# killed in each phase.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpModes;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new(seconds => 240);
my $server = $t->server(addr => '127.0.0.91');
my $certificates = $tls->certificates($t);

my $dir = $t->dir;
my %cert = map { $_ => ["$dir/$_.crt", "$dir/$_.key"] }
    'server', 'client', 'stranger';

# mode of the client and of the server
my @pairs = ('active active', 'active passive', 'passive active');

# Control servers for each pair, and for a server in clear and one with TLS.
sub control {
    my ($first, $zone) = @_;

    my $conf = '';

    for my $pair (@pairs) {
        my ($mode) = $pair =~ / (.*)/;

        for my $far ('', 'proxy_ssl on;') {
            $conf .= <<"END";
    server {
        listen 127.0.0.1:${\$t->port($first++)};
        ftp_ctrl zone=$zone;
        ftp_server_mode $mode;
        $far
        proxy_pass ${\$server->at};
    }
END
            $zone =~ s/:.*//;
        }
    }

    return $conf;
}

sub range { sprintf ':1m min_port=%d max_port=%d', map { $t->port($_) } @_ }

my $conf = <<"EOF";
    $certificates
    ftp_auth_tls on;
    ftp_client_mode any;
    log_format ftp '\$status \$ftp_data_status';

    ${\control(0, 'ftp' . range(20, 23))}
    ${\control(6, 'short' . range(30, 33))}
    ${\control(12, 'verify' . range(40, 43))}

    server {
        listen 127.0.0.1:${\$t->range(20, 23)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 33)};
        ftp_data zone=short;
        ssl_handshake_timeout 400ms;
        proxy_connect_timeout 400ms;
    }

    server {
        listen 127.0.0.1:${\$t->range(40, 43)};
        ftp_data zone=verify;
        ssl_verify_client on;
        ssl_client_certificate $dir/ca.crt;
        access_log logs/access.log ftp;
    }
EOF

$t->run($conf);

# A control connection on which both legs' data is to be private, as far as the
# server's is TLS.
sub session {
    my ($pair, $far, %arg) = @_;

    my ($n) = grep { $pairs[$_] eq $pair } 0 .. $#pairs;
    my $c = $tls->connect(
        port => $t->port(($arg{first} // 0) + 2 * $n + ($far eq 'tls')));
    my $s = $far eq 'tls' ? $tls->accept($server, cert => $cert{server})
        : $server->accept;

    $s->send("220 ready\r\n");
    $c->line eq "220 ready\r\n" or die "no greeting\n";
    $tls->auth($c);

    my @commands = ('PBSZ 0', 'PROT P');

    if ($far eq 'plain') {
        $c->protect eq '' or die "no PROT P\n";
    } else {
        $t->dialog($c, $s, map { $_ => '200 okay' } @commands) eq ''
            or die "no PROT P\n";
    }

    return ($c, $s);
}

# Both ends of a data connection, in clear so far.
sub data {
    my ($pair, $c, $s) = @_;

    return Test::Nginx::FtpModes->agree($t, $c, $s,
        $pair =~ /^active/ ? 'PORT' : 'PASV')->begin;
}

# Brings both ends as far as told; dies if it does not come to that.
#   connected  nobody has said a thing
#   hello      the server's TLS is up, the client has sent half a hello
#   flight     the client has sent its hello, and not answered
#   done       both handshakes are over
sub advance {
    my ($d, $phase, $far_tls, %arg) = @_;

    my ($near, $far) = $d->ends;

    return ($near, $far) if $phase eq 'connected';

    if ($far_tls) {
        $tls->serve($far, cert => $cert{server}, mute => 1);
        $far->handshake or die "no handshake of the server\n";
    }

    $tls->prepare($near, %arg);

    if ($phase eq 'hello') {
        my $hello = $near->hello;
        $d->{rest} = substr $hello, 60, length $hello, '';
        $near->send_raw($hello);

    } elsif ($phase eq 'flight') {
        $near->send_raw($near->hello);
        $t->wait_for('an answer', sub {
            IO::Select->new($near->socket)->can_read(0);
        });

    } elsif ($phase eq 'done') {
        $near->handshake or die "no handshake of the client\n";
    }

    return ($near, $far);
}

# The rest of the way, and a file.
sub complete {
    my ($d, $phase, $far_tls) = @_;

    my ($near, $far) = @$d{qw(near far)};

    if ($phase eq 'connected') {
        ($near, $far) = advance($d, 'done', $far_tls);

    } elsif ($phase ne 'done') {
        $near->send_raw($d->{rest}) if $phase eq 'hello';
        return "no handshake: $near->{end}" if !$near->handshake;
    }

    $far->send('file');
    $far->finish;

    my $got = $near->rest;

    return $got eq 'file' && $near->{end} eq 'eof' ? ''
        : "'$got', $near->{end}";
}

# The server's word on a transfer that was not to be.
sub sorry {
    my ($c, $s, $name) = @_;

    is($s->line, "RETR f\r\n", "$name: command");
    $s->send("426 cut\r\n");
    is($c->line, "426 cut\r\n", "$name: control goes on");

    return;
}

sub drop { $_->reset for grep { $_->socket } @_ }

sub cut { return like($_[0]->ended, qr/\Areset/, $_[1]) }

my @phases = ('connected', 'hello', 'flight', 'done');

# ---- one side goes

for my $pair (@pairs) {
    for my $kind ('plain', 'tls') {
        my $far_tls = $kind eq 'tls';
        my ($c, $s) = session($pair, $kind);

        for my $phase (@phases) {
            for my $how ('client resets', 'server resets', 'client leaves',
                'client talks', $far_tls ? 'server talks' : ()
            ) {
                # a side that is through with TLS has said what it had to say
                next if $phase eq 'done' && $how =~ /talks|leaves/;
                next if $phase ne 'connected' && $how eq 'server talks';

                my $name = "$pair, $kind, $phase, $how";
                my $d = data($pair, $c, $s);
                my ($near, $far) = advance($d, $phase, $far_tls);

                if ($how eq 'client resets') {
                    $near->reset;
                } elsif ($how eq 'server resets') {
                    $far->reset;
                } elsif ($how eq 'client leaves') {
                    $near->Test::Nginx::FtpConn::finish;
                } elsif ($how eq 'client talks') {
                    ($phase eq 'connected' ? 'Test::Nginx::FtpConn'
                        : $tls)->can($phase eq 'connected' ? 'send' : 'send_raw')
                        ->($near, 'x' x 4000);
                } else {
                    $far->send("150 in clear\r\n" x 100);
                }

                if ($how =~ /client/) {
                    # toward a server whose TLS does not begin there is nothing
                    # to tell it from
                    cut($far, "$name: server") if !$far_tls
                        || $phase ne 'connected';
                }

                if ($how =~ /server/) {
                    # while the client's handshake is to be done nobody looks
                    # at the other leg
                    my $pending = $phase =~ /hello|flight/
                        || $phase eq 'connected' && !$far_tls;

                    cut($near, "$name: client") if !$pending;
                }

                drop($near, $far);
                sorry($c, $s, $name);
            }
        }

        my $d = data($pair, $c, $s);
        advance($d, 'connected');
        is(complete($d, 'connected', $far_tls), '', "$pair, $kind, works");
        $d->leave;
        $_->close for $c, $s;
    }
}

# ---- a server that has sent all before the client's handshake

for my $pair (@pairs) {
    for my $kind ('plain', 'tls') {
        my ($c, $s) = session($pair, $kind);

        for my $phase ('connected', 'hello', 'flight') {
            next if $phase eq 'connected' && $kind eq 'tls';

            for my $bytes ('', 'file') {
                my $name = "$pair, $kind, $phase, early '$bytes'";
                my $d = data($pair, $c, $s);
                my ($near, $far) = advance($d, $phase, $kind eq 'tls');

                $far->send($bytes);
                $far->finish;
                $tls->prepare($near) if $phase eq 'connected';
                $near->send_raw($d->{rest}) if $phase eq 'hello';
                ok($near->handshake, "$name: handshake");
                is($near->rest, $bytes, $name);
                is($near->{end}, 'eof', "$name: end");
                $near->close;
                is($far->ended, 'eof', "$name: server's end");
                sorry($c, $s, $name);
            }
        }

        $_->close for $c, $s;
    }
}

# ---- one side says nothing

for my $pair (@pairs) {
    for my $kind ('plain', 'tls') {
        my $far_tls = $kind eq 'tls';
        my ($c, $s) = session($pair, $kind, first => 6);

        for my $phase ('connected', 'hello', 'flight') {
            my $name = "$pair, $kind, $phase, silence";
            my $d = data($pair, $c, $s);
            my ($near, $far) = advance($d, $phase, $far_tls);

            like($near->Test::Nginx::FtpConn::rest . $near->{end},
                qr/reset\z/, "$name: client");
            cut($far, "$name: server") if !$far_tls || $phase ne 'connected';
            drop($near, $far);
            sorry($c, $s, $name);
        }

        my $d = data($pair, $c, $s);
        advance($d, 'connected');
        is(complete($d, 'connected', $far_tls), '', "$pair, $kind, in time");
        $d->leave;
        $_->close for $c, $s;
    }
}

# ---- certificates of clients

for my $pair (@pairs) {
    for my $kind ('plain', 'tls') {
        my ($c, $s) = session($pair, $kind, first => 12);

        for my $who ('', 'stranger', 'client') {
            my $name = "$pair, $kind, certificate '$who'";
            my $d = data($pair, $c, $s);
            my ($near, $far) = advance($d, 'prepared', $kind eq 'tls',
                $who ? (cert => $cert{$who}) : ());

            $near->handshake;

            if ($who eq 'client') {
                is(complete($d, 'done'), '', $name);
            } else {
                $far->send('secret');
                $near->rest;
                is($near->{in}, '', "$name: nothing");
                isnt($near->{end}, 'eof', "$name: client");
                cut($far, "$name: server");
            }

            drop($near, $far);
            sorry($c, $s, $name);
        }

        $_->close for $c, $s;
    }
}

# ---- workers leave, and are killed

for my $pair (@pairs) {
    for my $kind ('plain', 'tls') {
        for my $phase (@phases) {
            my $name = "$pair, $kind, $phase, reload";
            my ($c, $s) = session($pair, $kind);
            my $d = data($pair, $c, $s);

            advance($d, $phase, $kind eq 'tls');
            $t->reload;
            is(complete($d, $phase, $kind eq 'tls'), '', $name);
            $d->leave;
            sorry($c, $s, $name);

            # and the next one, which new workers take
            $d = data($pair, $c, $s);
            advance($d, 'connected');
            is(complete($d, 'connected', $kind eq 'tls'), '', "$name, the next");
            $d->leave;
            $_->close for $c, $s;
        }

        $t->wait_for('the old workers to end', sub { $t->workers == 2 });
    }
}

for my $pair (@pairs) {
    for my $kind ('plain', 'tls') {
        for my $phase (@phases) {
            # dialled connections are with the control connection's worker
            my ($doomed, $other) = $t->workers;
            my $control = $pair eq 'active passive' ? $doomed : $other;
            my $name = "$pair, $kind, $phase, kill";
            my ($c, $s) = $t->only_worker($control, sub {
                session($pair, $kind);
            });
            my $d = Test::Nginx::FtpModes->agree($t, $c, $s,
                $pair =~ /^active/ ? 'PORT' : 'PASV');

            $c->command('RETR f');
            is($s->line, "RETR f\r\n", $name);
            $t->only_worker($doomed, sub {
                $t->worker_of($d->dial_client) if $d->{port};
                $t->worker_of($d->dial_server) if $d->{told};
            });
            my ($near, $far) = advance($d, $phase, $kind eq 'tls');
            $t->kill_worker($doomed);
            like($near->Test::Nginx::FtpConn::rest . $near->{end}, qr/reset\z/,
                "$name: client");

            # in a handshake that the proxy itself has begun, a FIN says no more
            # than a reset
            if ($kind eq 'tls' && $phase eq 'connected') {
                $far->rest;
                ok($far->{end}, "$name: server");
            } else {
                cut($far, "$name: server");
            }

            $d->leave;

            is($t->dialog($c, $s, NOOP => '200 okay'), '', "$name: control")
                if $control != $doomed;
            $_->close for $c, $s;
        }
    }

    # nothing is left of them: the range is small
    for my $kind ('plain', 'tls') {
        my ($c, $s) = session($pair, $kind);

        for (1 .. 4) {
            my $d = data($pair, $c, $s);
            advance($d, 'connected');
            is(complete($d, 'connected', $kind eq 'tls'), '',
                "$pair, $kind, behind kills");
            $d->leave;
            sorry($c, $s, "$pair, $kind, behind kills");
        }

        $_->close for $c, $s;
    }
}

$t->done(allow => qr/worker process \d+ exited on signal 9|was locked by \d+/);
