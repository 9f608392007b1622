#!/usr/bin/perl

# Every configuration in nginx-conf passes nginx -t, without a warning.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my @files = glob $t->root . '/nginx-conf/*.conf';

ok(scalar @files, 'examples');

my ($certificate, $key) = map { $t->dir . "/$_" } 'example.crt', 'example.key';
system('openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=example'
    . " -keyout $key -out $certificate 2>/dev/null") == 0
    or die "openssl failed\n";

for my $file (@files) {
    my ($name) = $file =~ m{([^/]+)$};

    open my $fh, '<', $file or die "cannot open $file: $!\n";
    my $conf = do { local $/; <$fh> };
    close $fh;

    like($conf, qr/^\s*load_module\s+\S*ngx_stream_ftp_proxy_module\.so;/m,
        "$name loads the module");

    # the modules of this run, and nothing written outside its folder
    $conf =~ s/^\s*load_module\s.*$//mg;
    $conf =~ s/^\s*pid\s.*$//mg;
    $conf =~ s/^(\s*(?:error|access)_log)\s+(?!off)[^\s;]+/$1 logs\/example.log/mg;

    # certificates of machines that are not this one
    $conf =~ s{^(\s*(?:proxy_)?ssl_(?:trusted_)?certificate)\s+\S+;}{$1 $certificate;}mg;
    $conf =~ s{^(\s*ssl_certificate_key)\s+\S+;}{$1 $key;}mg;

    my ($passed, $said) = $t->check_file($t->write_file("example-$name",
        $t->globals . "pid nginx.pid;\n" . $conf));

    ok($passed, $name) or diag($said);
    unlike($said, qr/\[(?:warn|error|alert|emerg)\]/, "$name no warning");
}

$t->done;
