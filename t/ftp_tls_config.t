#!/usr/bin/perl

# What nginx -t says of TLS.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpTls;

my $tls = 'Test::Nginx::FtpTls';
my $t = Test::Nginx::Ftp->new;
my $server = $t->server;
my $certificates = $tls->certificates($t);

my $dir = $t->dir;

sub ctrl {
    my ($more, $listen) = @_;

    return 'server { listen 127.0.0.1:' . $t->port(0) . ($listen // '') . '; '
        . "ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} "
        . "max_port=${\$t->port(20)}; proxy_pass ${\$server->at}; $more }\n";
}

sub ctrl2 {
    my ($more) = @_;

    return 'server { listen 127.0.0.1:' . $t->port(2) . '; ftp_ctrl zone=ftp; '
        . "proxy_pass ${\$server->at}; $more }\n";
}

sub data {
    my ($more, $listen) = @_;

    return 'server { listen 127.0.0.1:' . $t->range(10, 20) . ($listen // '')
        . "; ftp_data zone=ftp; $more }\n";
}

my $stock = qr/no "ssl_certificate" is defined/;
my $auth = qr/"ftp_auth_tls" needs "ssl_certificate"/;
my $upward = qr/"ftp_proxy_auth_tls" needs "proxy_ssl on"/;
my $flag = qr/invalid value "only" in "ftp_proxy_auth_tls" directive,.*/;
my $needs = qr/"ftp_data"\ needs\ "ssl_certificate":\ control\ servers\ of
    \ its\ zone\ do\ TLS/x;

my @cases = (
    # what is good

    ['off', ctrl('ftp_auth_tls off;') . data('')],
    ['on', "$certificates " . ctrl('ftp_auth_tls on;') . data('')],
    ['only', "$certificates " . ctrl('ftp_auth_tls only;') . data('')],
    ['certificates in each', ctrl("ftp_auth_tls on; $certificates")
        . data($certificates)],
    ['inherited', "$certificates ftp_auth_tls only; ftp_data_tls required;\n"
        . ctrl('') . data('')],
    ['inherited and off', "ftp_auth_tls on;\n" . ctrl('ftp_auth_tls off;')
        . data('')],
    ['listen ssl', ctrl($certificates, ' ssl') . data($certificates)],
    ['listen ssl on both', ctrl($certificates, ' ssl')
        . data($certificates, ' ssl')],
    ['listen ssl on data', ctrl('') . data($certificates, ' ssl')],
    ['auth to the server', "ftp_proxy_auth_tls on; " . ctrl('proxy_ssl on;') . data('')],
    ['both kinds', "$certificates " . ctrl('ftp_auth_tls on;', ' ssl') . data('')],
    ['optional', "$certificates "
        . ctrl('ftp_auth_tls on; ftp_data_tls optional;') . data('')],
    ['data before control', data($certificates)
        . ctrl("ftp_auth_tls on; $certificates")],

    # toward the server

    ['no proxy_ssl', ctrl('ftp_proxy_auth_tls on;') . data(''), $upward, 1],
    ['unused without control', "proxy_ssl on; ftp_proxy_auth_tls on;\n"
        . "server { listen 127.0.0.1:${\$t->port(1)}; "
        . "proxy_pass ${\$server->at}; }" . ctrl('') . data('')],
    ['unused without control and TLS', "ftp_proxy_auth_tls on; server { "
        . "listen 127.0.0.1:${\$t->port(1)}; proxy_pass ${\$server->at}; }\n"
        . ctrl('proxy_ssl on;') . data('')],
    ['proxy_ssl in the other', "ftp_proxy_auth_tls on; proxy_ssl off;\n"
        . ctrl('proxy_ssl on;') . ctrl2('') . data(''), $upward],
    ['off in the other', "ftp_proxy_auth_tls on;\n" . ctrl('proxy_ssl on;')
        . ctrl2('ftp_proxy_auth_tls off;') . data('')],
    ['server value', ctrl('proxy_ssl on; ftp_proxy_auth_tls only;') . data(''),
        $flag, 1],
    ['server two', ctrl('ftp_proxy_auth_tls on off;') . data(''),
        qr/invalid number of arguments in "ftp_proxy_auth_tls" directive/, 1],
    ['server twice', ctrl('ftp_proxy_auth_tls on; ftp_proxy_auth_tls on;')
        . data(''), qr/"ftp_proxy_auth_tls" directive is duplicate/, 1],
    ['no proxy_ssl, inherited', "ftp_proxy_auth_tls on;\n" . ctrl('') . data(''), $upward],

    # certificates

    ['on without', ctrl('ftp_auth_tls on;') . data($certificates), $auth, 1],
    ['only without', ctrl('ftp_auth_tls only;') . data($certificates), $auth, 1],
    ['inherited without', "ftp_auth_tls on;\n" . ctrl('') . data($certificates),
        $auth],
    ['data without', ctrl("ftp_auth_tls on; $certificates") . data(''), $needs, 2],
    ['data without, first', data('') . ctrl("ftp_auth_tls on; $certificates"),
        $needs, 1],
    ['data without, only', ctrl("ftp_auth_tls only; $certificates") . data(''),
        $needs, 2],
    ['data without, listen ssl', ctrl($certificates, ' ssl') . data(''),
        $needs, 2],
    ['listen ssl without', ctrl('', ' ssl') . data($certificates), $stock],
    ['data listen ssl without', ctrl('') . data('', ' ssl'), $stock],
    ['no key', ctrl("ftp_auth_tls on; ssl_certificate $dir/server.crt;")
        . data($certificates), qr/no "ssl_certificate_key" is defined/],
    ['wrong file', ctrl("ftp_auth_tls on; ssl_certificate $dir/none;"
        . "ssl_certificate_key $dir/none;") . data($certificates),
        qr/cannot load certificate/],

    # values

    ['auth value', ctrl('ftp_auth_tls yes;') . data(''),
        qr/invalid (?:"ftp_auth_tls" )?value "yes"/, 1],
    ['auth case', ctrl('ftp_auth_tls o;') . data(''),
        qr/invalid (?:"ftp_auth_tls" )?value "o"/, 1],
    ['auth two', ctrl('ftp_auth_tls on only;') . data(''),
        qr/invalid number of arguments in "ftp_auth_tls" directive/, 1],
    ['auth none', ctrl('ftp_auth_tls;') . data(''),
        qr/invalid number of arguments in "ftp_auth_tls" directive/, 1],
    ['auth twice', ctrl("$certificates ftp_auth_tls on; ftp_auth_tls on;")
        . data(''), qr/"ftp_auth_tls" directive is duplicate/, 1],
    ['data value', ctrl('ftp_data_tls on;') . data(''),
        qr/invalid (?:"ftp_data_tls" )?value "on"/, 1],
    ['data two', ctrl('ftp_data_tls optional required;') . data(''),
        qr/invalid number of arguments in "ftp_data_tls" directive/, 1],
    ['data twice', ctrl('ftp_data_tls optional; ftp_data_tls optional;')
        . data(''), qr/"ftp_data_tls" directive is duplicate/, 1],

    # the other two of data connections

    (map {
        my $name = "ftp_data_tls_$_";

        ["$_ optional", "$name optional;\n" . ctrl("$name required;")
            . data("$name required;")],
        ["$_ required", "$certificates ssl_session_cache shared:a:1m; ssl_session_timeout 10m; "
            . "$name required;\n" . ctrl('ftp_auth_tls on;') . data('')],
        ["$_ value", ctrl("$name on;") . data(''), qr/invalid (?:"$name" )?value "on"/,
            1],
        ["$_ two", ctrl("$name optional required;") . data(''),
            qr/invalid number of arguments in "$name" directive/, 1],
        ["$_ twice", ctrl('') . data("$name optional; $name optional;"),
            qr/"$name" directive is duplicate/, 2],
    } 'reuse', 'close_notify'),
);

for (@cases) {
    my ($name, $stream, $error, $line) = @$_;
    my ($good, $said) = $t->check($stream);

    if (!$error) {
        ok($good, $name) or diag($said);
        unlike($said, qr/\[(?:warn|emerg|alert)\]/, "$name says nothing");
        next;
    }

    ok(!$good, $name);
    like($said, qr/\[emerg\] .*$error in \S+:\d+$/m, "$name error")
        if $error != $stock && $name !~ /wrong file|no key/;
    like($said, $error, "$name text");
    like($said, qr/:${\$t->stream_line($line)}$/m, "$name line") if $line;
}

# A data connection that has to resume can do so as long as nginx knows the session,
# and the control connection may be idle for longer than that.

my $required = "$certificates ssl_session_cache shared:a:1m; ftp_data_tls_reuse required;";
my $short = qr/\[warn\] .*"ssl_session_timeout" is less than "proxy_timeout": "ftp_data_tls_reuse required"/;

for (
    ['defaults', $required, 'ftp_auth_tls on;', '', 1],
    ['implicit', $required, '', ' ssl', 1],
    ['both kinds', $required, 'ftp_auth_tls on;', ' ssl', 1],
    ['shorter', "$required ssl_session_timeout 59m;", 'ftp_auth_tls on; proxy_timeout 1h;', '', 1],
    ['as long', "$required ssl_session_timeout 1h;", 'ftp_auth_tls on; proxy_timeout 1h;', '', 0],
    ['as long there', $required, 'ftp_auth_tls on; proxy_timeout 1m; ssl_session_timeout 1m;', '', 0],
    ['no TLS', $required, '', '', 0],
    ['optional', $certificates, 'ftp_auth_tls on;', '', 0],
) {
    my ($name, $stream, $more, $listen, $warnings) = @$_;
    my ($good, $said) = $t->check("$stream\n" . ctrl($more, $listen) . data(''));

    ok($good, "sessions: $name") or diag($said);
    is(() = $said =~ /\[warn\]/g, $warnings, "sessions: $name warnings") or diag($said);
    like($said, qr/$short.*:${\$t->stream_line(2)}$/m, "sessions: $name text") if $warnings;
}

$t->done;
