package Test::Nginx::FtpTls;

# The client's end of a connection that speaks TLS, or will when the test says
# so.  TLS runs between two pieces of memory and the bytes between it and the
# socket are in the test's hands: a hello can come late, in pieces or never,
# and a close_notify is told from a mere end.
#
# $c->{end} knows more here: 'eof' is a FIN behind a close_notify, 'bare eof'
# one without, 'reset' a reset without close_notify, 'late reset' one behind
# it, 'alert' an error of TLS itself.

use strict;
use warnings;

use parent 'Test::Nginx::FtpClient';

use Net::SSLeay ();
use Socket qw(MSG_DONTWAIT MSG_NOSIGNAL);
use Time::HiRes qw(time);

use Test::Nginx::FtpConn;

my %version = (
    1.2 => Net::SSLeay::TLS1_2_VERSION(),
    1.3 => Net::SSLeay::TLS1_3_VERSION(),
);

# ---- certificates

# Keys and certificates in the test's folder: ca, server and client of that
# ca, stranger of nobody.  Returns the directives that a server needs.
sub certificates {
    my ($class, $t) = @_;

    my $dir = $t->dir;
    my $ca = "-CA $dir/ca.crt -CAkey $dir/ca.key";

    _certificate($dir, 'ca', '');
    _certificate($dir, 'server', $ca);
    _certificate($dir, 'client', $ca);
    _certificate($dir, 'stranger', '');

    return "ssl_certificate $dir/server.crt; "
        . "ssl_certificate_key $dir/server.key; ssl_protocols TLSv1.2 TLSv1.3;";
}

sub _certificate {
    my ($dir, $name, $options) = @_;

    my $said = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 \\
        -nodes -days 2 -subj /CN=$name $options -keyout $dir/$name.key \\
        -out $dir/$name.crt 2>&1`;
    die "no certificate: $said\n" if $?;

    # readable for workers that are not root
    chmod 0644, "$dir/$name.key";

    return;
}

# ---- TLS on a connection

# Makes TLS ready on an open connection; not a byte is sent.
#   version => 1.2 or 1.3 alone, session => to resume, name => SNI,
#   cert => [file, key file] of the client, mute => answers no close_notify,
#   ca => file of the ca that must have signed the server's certificate
sub prepare {
    my ($class, $conn, %arg) = @_;

    my $ctx = Net::SSLeay::CTX_new_with_method(Net::SSLeay::TLS_client_method())
        or die "no TLS context\n";

    _limit($ctx, $arg{version});

    if ($arg{ca}) {
        Net::SSLeay::CTX_load_verify_locations($ctx, $arg{ca}, '')
            or die "no $arg{ca}\n";
        Net::SSLeay::CTX_set_verify($ctx, Net::SSLeay::VERIFY_PEER());
    }

    if ($arg{cert}) {
        Net::SSLeay::set_cert_and_key($ctx, $arg{cert}[0], $arg{cert}[1])
            or die "no client certificate\n";
    }

    my $ssl = Net::SSLeay::new($ctx);

    Net::SSLeay::set_connect_state($ssl);

    if ($arg{session}) {
        # OpenSSL never resumes a session again that has met an alert
        my $copy = Net::SSLeay::SESSION_dup($arg{session});
        Net::SSLeay::set_session($ssl, $copy);
        Net::SSLeay::SESSION_free($copy);
    }

    Net::SSLeay::set_tlsext_host_name($ssl, $arg{name}) if $arg{name};

    return _over_memory($class, $conn, $ssl, ctx => $ctx, mute => $arg{mute});
}

sub _limit {
    my ($ctx, $version) = @_;

    return if !$version;

    Net::SSLeay::CTX_set_min_proto_version($ctx, $version{$version});
    Net::SSLeay::CTX_set_max_proto_version($ctx, $version{$version});

    return;
}

# Puts TLS between the connection and the test.
sub _over_memory {
    my ($class, $conn, $ssl, %arg) = @_;

    my @bio = map { Net::SSLeay::BIO_new(Net::SSLeay::BIO_s_mem()) } 1, 2;

    Net::SSLeay::set_bio($ssl, $bio[0], $bio[1]);

    $conn->{tls} = {
        ssl  => $ssl,
        from => $bio[0],
        to   => $bio[1],
        out  => '',         # encrypted and not yet with the kernel
        %arg,
    };

    # what came together with the last line in clear
    Net::SSLeay::BIO_write($bio[0], $conn->{in}) if length $conn->{in};
    $conn->{in} = '';

    return bless $conn, $class;
}

# The same and the handshake; whether that went well.
sub secure {
    my ($class, $conn, %arg) = @_;

    return $class->prepare($conn, %arg)->handshake;
}

# The ClientHello, for a test that sends it by itself.
sub hello {
    my ($self) = @_;

    Net::SSLeay::connect($self->{tls}{ssl});
    Net::SSLeay::ERR_clear_error();

    $self->_encrypted;

    return substr $self->{tls}{out}, 0, length $self->{tls}{out}, '';
}

# Goes on with the handshake to its end; whether that is a good one.
sub handshake {
    my ($self) = @_;

    my $tls = $self->{tls};
    my $until = time + $Test::Nginx::FtpConn::DEADLINE;

    while (1) {
        my $rc = Net::SSLeay::connect($tls->{ssl});
        my $error = Net::SSLeay::get_error($tls->{ssl}, $rc);

        $self->_flush($until);

        return 1 if $rc == 1;

        if ($error != Net::SSLeay::ERROR_WANT_READ()) {
            $self->{end} ||= 'alert';
            $tls->{error} = Net::SSLeay::ERR_error_string(
                Net::SSLeay::ERR_get_error());
            Net::SSLeay::ERR_clear_error();
            return 0;
        }

        $self->_receive($until) or return 0;
    }
}

# One step of the handshake, which waits for nothing; whether it is done.
sub step {
    my ($self) = @_;

    my $tls = $self->{tls};
    my $now = time;

    $self->_receive($now) if IO::Select->new($self->{socket})->can_read(0);

    my $done = Net::SSLeay::connect($tls->{ssl}) == 1;

    Net::SSLeay::ERR_clear_error();
    $self->_flush($now);

    return $done;
}

# Bytes as they are, in front of or beside TLS.
sub send_raw {
    my ($self, @segments) = @_;

    my $tls = delete $self->{tls};
    my $sent = $self->send(@segments);
    $self->{tls} = $tls;

    return $sent;
}

sub version {
    my ($self) = @_;

    return Net::SSLeay::get_version($self->{tls}{ssl});
}

# The session, for another connection to resume.  TLS 1.3 sends it after the
# handshake: something must have been read.
sub tls_session {
    my ($self) = @_;

    return Net::SSLeay::get1_session($self->{tls}{ssl});
}

sub is_resumed {
    my ($self) = @_;

    return Net::SSLeay::session_reused($self->{tls}{ssl});
}

# ---- what FtpConn builds upon

# Takes a piece of the bytes; tells how much when all of it, encrypted, is with
# the kernel, 0 before.
sub write_some {
    my ($self, $bytes) = @_;

    my $tls = $self->{tls} or return $self->SUPER::write_some($bytes);

    return if !$self->{socket};

    if (!$tls->{pending}) {
        my $piece = substr $bytes, 0, 16384;

        if (Net::SSLeay::write($tls->{ssl}, $piece) <= 0) {
            Net::SSLeay::ERR_clear_error();
            $self->{end} ||= 'alert';
            return;
        }

        $tls->{pending} = length $piece;
        $self->_encrypted;
    }

    if (length $tls->{out}) {
        my $done = $self->_push;
        return $done unless $done;
    }

    my $n = $tls->{pending};
    $tls->{pending} = 0;

    return $n;
}

sub fill {
    my ($self, $until, $most) = @_;

    my $tls = $self->{tls} or return $self->SUPER::fill($until, $most);

    return 0 if $self->{end} || !$self->{socket};

    while (1) {
        if (!$tls->{notified}) {
            my ($bytes, $rc) = Net::SSLeay::read($tls->{ssl}, $most || 65536);

            if (defined $bytes && length $bytes) {
                $self->{in} .= $bytes;
                return length $bytes;
            }

            my $error = Net::SSLeay::get_error($tls->{ssl}, $rc // -1);

            if ($error == Net::SSLeay::ERROR_ZERO_RETURN()) {
                $tls->{notified} = 1;
                $self->notify unless $tls->{mute};

            } elsif ($error != Net::SSLeay::ERROR_WANT_READ()) {
                $tls->{error} = Net::SSLeay::ERR_error_string(
                    Net::SSLeay::ERR_get_error());
                Net::SSLeay::ERR_clear_error();
                $self->{end} = 'alert';
                return 0;
            }
        }

        $self->_receive($until) or return 0;
    }
}

# A close_notify; the connection stays.
sub notify {
    my ($self) = @_;

    return if !$self->{socket} || $self->{tls}{closed}++;

    Net::SSLeay::shutdown($self->{tls}{ssl});
    Net::SSLeay::ERR_clear_error();

    return $self->_flush(time + $Test::Nginx::FtpConn::DEADLINE);
}

# A close_notify and a FIN; abruptly => 1 leaves the first out.
sub finish {
    my ($self, %arg) = @_;

    $self->notify if $self->{tls} && !$arg{abruptly};

    return $self->SUPER::finish;
}

sub is_notified { $_[0]{tls}{notified} }

sub DESTROY {
    my ($self) = @_;

    my $tls = delete $self->{tls} or return;

    # else OpenSSL takes the session for a broken one and never resumes it
    Net::SSLeay::set_shutdown($tls->{ssl}, 3);
    Net::SSLeay::free($tls->{ssl});
    Net::SSLeay::CTX_free($tls->{ctx}) if $tls->{ctx};

    return;
}

# Reads the socket once, for TLS.
sub _receive {
    my ($self, $until) = @_;

    my $tls = $self->{tls};

    while (1) {
        my $n = sysread $self->{socket}, my $raw, 65536;

        if ($n) {
            $tls->{received} += $n;
            Net::SSLeay::BIO_write($tls->{from}, $raw) unless $tls->{notified};
            return $n;
        }

        if (defined $n) {
            $self->{end} = $tls->{lost} ? 'reset'
                : $tls->{notified} ? 'eof' : 'bare eof';
            return 0;
        }

        next if $!{EINTR};

        if (!$!{EAGAIN}) {
            $self->{end} = $tls->{notified} ? 'late reset' : 'reset';
            return 0;
        }

        $self->_wait(read => $until) or return 0;
    }
}

sub _encrypted {
    my ($self) = @_;

    my $tls = $self->{tls};

    while (my $n = Net::SSLeay::BIO_pending($tls->{to})) {
        $tls->{out} .= Net::SSLeay::BIO_read($tls->{to}, $n);
    }

    return;
}

# Sends what the socket takes: true if that is all, undef if the connection is
# gone.
sub _push {
    my ($self) = @_;

    my $tls = $self->{tls};

    while (length $tls->{out}) {
        my $n = CORE::send($self->{socket}, $tls->{out},
            MSG_DONTWAIT | MSG_NOSIGNAL);

        if (!defined $n) {
            return 0 if $!{EAGAIN} || $!{EINTR};

            # what the other side sent before is still to be read, but not the
            # reset, which the kernel has told now
            $tls->{lost} = 1 if $!{ECONNRESET};
            return;
        }

        substr $tls->{out}, 0, $n, '';
    }

    return 1;
}

sub _flush {
    my ($self, $until) = @_;

    $self->_encrypted;

    while (1) {
        my $done = $self->_push;
        return $done if !defined $done || $done;

        $self->_wait(write => $until) or return 0;
    }
}

# ---- steps that many tests share

# A control connection on which AUTH TLS was said and done: the client's end
# and the server's, after the greeting.  Arguments as for prepare, port.
sub explicit {
    my ($class, $t, $server, %arg) = @_;

    my ($c, $s) = $t->session($server, $arg{port} ? (port => $arg{port}) : ());

    $class->auth($c, %arg);

    return ($c, $s);
}

# AUTH TLS on a connection in clear.
sub auth {
    my ($class, $c, %arg) = @_;

    $c->command('AUTH TLS');

    my $reply = $c->line;
    die "no 234 but '$reply'\n" if $reply !~ /^234 /;

    $class->secure($c, %arg)
        or die "no handshake: " . ($c->{tls}{error} // $c->{end}) . "\n";

    return;
}

# A control connection that is TLS from the start.
sub implicit {
    my ($class, $t, $server, %arg) = @_;

    my $c = $class->connect(port => $arg{port} // $t->port(0));

    $class->secure($c, %arg)
        or die "no handshake: " . ($c->{tls}{error} // $c->{end}) . "\n";

    my $s = $server->accept;
    $s->send("220 ready\r\n");

    my $greeting = $c->line;
    die "no greeting but '$greeting'\n" if $greeting ne "220 ready\r\n";

    return ($c, $s);
}

# PBSZ 0 and PROT, which the proxy answers itself; what went wrong, or nothing.
sub protect {
    my ($self, $level) = @_;

    for my $command ('PBSZ 0', 'PROT ' . ($level // 'P')) {
        $self->command($command);

        my $reply = $self->line;
        return "$command: $reply" if $reply !~ /^200 /;
    }

    return '';
}

# A data connection whose TLS is ready and not begun: the client's end, the
# server's, the server's listener.  Arguments as for prepare.
sub raw_data {
    my ($class, $t, $c, $s, $command, %arg) = @_;

    my $listener = $t->server(addr => $s->local_addr,
        rcvbuf => delete $arg{rcvbuf});
    my $reply = $t->passive($c, $s, $listener, $command);
    my $near = $c->data($c->passive_port($reply));

    $class->prepare($near, %arg);

    return ($near, $listener->accept, $listener);
}

# The same with its handshake done.
sub tls_data {
    my ($class, @arg) = @_;

    my ($near, $far) = $class->raw_data(@arg);

    $near->handshake
        or die "no handshake: " . ($near->{tls}{error} // $near->{end}) . "\n";

    return ($near, $far);
}

# ---- the server's end

# What the connections of one server share, for serve; lives as long as the
# test.  cert => [file, key file], version => as for prepare,
# ca => file of the ca that must have signed the client's certificate,
# sessions => how they are resumed: 'tickets', 'ids' (in TLS 1.3 tickets that
#   are names of sessions), 'once' (tickets that count one time), 'never'
sub context {
    my ($class, %arg) = @_;

    my $ctx = Net::SSLeay::CTX_new_with_method(Net::SSLeay::TLS_server_method())
        or die "no TLS context\n";
    my $sessions = $arg{sessions} // 'tickets';

    Net::SSLeay::set_cert_and_key($ctx, $arg{cert}[0], $arg{cert}[1])
        or die "no server certificate\n";
    Net::SSLeay::CTX_set_session_id_context($ctx, 'ftp', 3);
    _limit($ctx, $arg{version});

    if ($arg{ca}) {
        Net::SSLeay::CTX_load_verify_locations($ctx, $arg{ca}, '')
            or die "no $arg{ca}\n";
        Net::SSLeay::CTX_set_verify($ctx, Net::SSLeay::VERIFY_PEER()
            | Net::SSLeay::VERIFY_FAIL_IF_NO_PEER_CERT());
    }

    if ($sessions eq 'ids' || $sessions eq 'never') {
        Net::SSLeay::CTX_set_options($ctx, Net::SSLeay::OP_NO_TICKET());
    }

    if ($sessions eq 'never') {
        Net::SSLeay::CTX_set_session_cache_mode($ctx,
            Net::SSLeay::SESS_CACHE_OFF());
        Net::SSLeay::CTX_set_num_tickets($ctx, 0);
    }

    if ($sessions eq 'once') {
        my ($made, %key) = 0;

        # each ticket has a key of its own, which is forgotten with its use
        Net::SSLeay::CTX_set_tlsext_ticket_getkey_cb($ctx, sub {
            my (undef, $name) = @_;

            # another name: the client is to have a new ticket
            if (defined $name) {
                return exists $key{$name} ? (delete $key{$name}, 'x' x 16) : ();
            }

            my $new = sprintf '%016d', ++$made;
            $key{$new} = join '', map { chr rand 256 } 1 .. 32;

            return ($key{$new}, $new);
        }, undef);
    }

    return $ctx;
}

# Makes TLS ready on a connection that the fake server has accepted; handshake
# does it.  context => of many connections, or cert => [file, key file] alone;
# own => word: resumes only sessions of connections with the same word,
# mute as for prepare
sub serve {
    my ($class, $conn, %arg) = @_;

    my $ctx = $arg{context} // $class->context(cert => $arg{cert});
    my $ssl = Net::SSLeay::new($ctx);

    Net::SSLeay::set_accept_state($ssl);
    Net::SSLeay::set_session_id_context($ssl, $arg{own}, length $arg{own})
        if defined $arg{own};

    return _over_memory($class, $conn, $ssl, mute => $arg{mute},
        $arg{context} ? () : (ctx => $ctx));
}

# The next connection of a listener, its handshake done.  Arguments as for
# serve; explicit => 1 and those of agree for a server that wants AUTH
sub accept {
    my ($class, $listener, %arg) = @_;

    my $conn = $listener->accept;

    $class->agree($conn, %arg) if $arg{explicit};

    my $self = $class->serve($conn, %arg);

    $self->handshake
        or die "no handshake: " . ($self->{tls}{error} // $self->{end}) . "\n";

    return $self;
}

# What an explicit server says in clear, up to its consent to TLS.
# greeting and proceed => its words, or a list of segments
sub agree {
    my ($class, $conn, %arg) = @_;

    my ($greeting, $proceed) = map { ref $_ ? $_ : [$_] }
        $arg{greeting} // "220 ready\r\n", $arg{proceed} // "234 go on\r\n";

    $conn->send(@$greeting);

    my $asked = $conn->line . $conn->waiting;
    die "no AUTH TLS but '$asked'\n" if $asked ne "AUTH TLS\r\n";

    $conn->send(@$proceed);

    return;
}

# The name that the client has asked for.
sub server_name {
    my ($self) = @_;

    return Net::SSLeay::get_servername($self->{tls}{ssl});
}

1;
