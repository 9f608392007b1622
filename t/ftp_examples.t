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

    my ($passed, $said) = $t->check_file($t->write_file("example-$name",
        $t->globals . "pid nginx.pid;\n" . $conf));

    ok($passed, $name) or diag($said);
    unlike($said, qr/\[(?:warn|error|alert|emerg)\]/, "$name no warning");
}

$t->done;
