#!/usr/bin/perl

# What accepted sockets inherit from the listening one, and that a socket which
# serves something else after a reload has lost it.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(data());

# a data port resets what it does not know

is(stranger(), 'reset', 'data port, stranger');
is(transfer(), 'whole', 'data port, transfer');

# the same socket in another role: a server that closes at once

$t->reload(returning());
is(other(), 'eof after 4', 'returning server');

# back, and with the delay that is asked for

for my $nodelay ('', 'tcp_nodelay off;', '') {
    $t->reload(data($nodelay));
    is(stranger(), 'reset', "stranger, '$nodelay'");
    is(transfer(), 'whole', "transfer, '$nodelay'");
}

# one socket, two addresses: the other one's server is no data server

$t->reload(mixed());
is(stranger(), 'reset', 'stranger beside another server');
is(other('127.0.0.2'), 'eof after 4', 'other server');
is(transfer(), 'whole', 'transfer beside another server');

$t->reload(data());
is(stranger(), 'reset', 'stranger, alone again');

# a configuration without any of the directives, and one without the module

$t->reload(returning(0));
is(other(), 'eof after 4', 'without directives');

$t->reload(data());
is(stranger(), 'reset', 'stranger at last');

$t->plain->reload(returning(0));
is(other(), 'eof after 4', 'without the module');

$t->done;

sub transfer {
    my ($c, $s) = $t->session($server);
    my ($near, $far) = $t->data($c, $s);

    $far->send('whole');
    $far->finish;

    my $got = $near->rest;
    $_->close for $c, $s;

    return $got;
}

sub stranger {
    return Test::Nginx::FtpClient->connect(port => $t->port(10))->ended;
}

# A server that says something of its own and closes.
sub other {
    my ($addr) = @_;

    return Test::Nginx::FtpClient->connect(addr => $addr,
        port => $t->port(10))->ended;
}

sub control {
    return <<"EOF";
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(10)};
        proxy_pass ${\$server->at};
    }
EOF
}

sub data {
    my ($more) = @_;

    return control() . <<"EOF";
    server {
        listen ${\$t->port(10)};
        ftp_data zone=ftp;
        ${\($more // '')}
    }
EOF
}

sub mixed {
    return control() . <<"EOF";
    server {
        listen ${\$t->port(10)};
        ftp_data zone=ftp;
    }

    server {
        listen 127.0.0.2:${\$t->port(10)};
        return over;
    }
EOF
}

sub returning {
    my ($with) = @_;

    return (($with // 1) ? control() : '') . <<"EOF";
    server {
        listen ${\$t->port(10)};
        return over;
    }
EOF
}
