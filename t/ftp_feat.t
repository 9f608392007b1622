#!/usr/bin/perl

# FEAT promises nothing that the proxy refuses.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my ($c, $s) = $t->session($server);

my @kept = ('211-Features:', ' EPSV', ' MDTM', ' MLST type*;size*;modify*;',
    ' PASV', ' REST STREAM', ' SIZE', ' TVFS', ' UTF8', ' HOST', '', 'CLNT',
    ' PORTLAND', ' XAUTH', '211 End');
my @gone = (' AUTH TLS', ' PBSZ', ' PROT', ' EPRT', ' PORT', ' LPRT', ' LPSV',
    ' SPSV', ' CPSV', ' SSCN', ' CCC', ' ADAT', ' MIC', ' CONF', ' ENC',
    'AUTH SSL', "\tAUTH TLS", ' auth tls;auth ssl', '  EPRT', ' PROT C;P');

my $kept = join '', map { "$_\r\n" } @kept;

# each refused line between each pair of the others

my @lines = $kept[0];

for my $i (1 .. $#kept) {
    push @lines, @gone if $i == 1 || $i == 7 || $i == $#kept;
    push @lines, $kept[$i];
}

my $feat = join '', map { "$_\r\n" } @lines;

$c->command('FEAT');
is($s->line, "FEAT\r\n", 'passed');
$s->send($feat);
is($c->reply, $kept, 'filtered');

$c->send("feat\r\n");
is($s->line, "feat\r\n", 'lower case');
$s->send_bytewise($feat);
is($c->reply, $kept, 'filtered bytewise');

# with bare LF

(my $bare = $feat) =~ s/\r//g;
($kept = join '', map { "$_\n" } @kept);

$c->command('FEAT');
$s->line;
$s->send($bare);
is($c->reply, $kept, 'bare LF');

# nothing left of it

is_deeply([feat("211-Features\r\n AUTH TLS\r\n211 End\r\n")],
    ["211-Features\r\n211 End\r\n"], 'nothing left');
is_deeply([feat("211 no features\r\n")], ["211 no features\r\n"], 'none');
is_deeply([feat("500 what\r\n")], ["500 what\r\n"], 'unknown');

# the right reply, and no other

$c->send("HELP\r\nFEAT\r\nHELP\r\nAUTH TLS\r\n");
is(join('', map { $s->line } 1 .. 3), "HELP\r\nFEAT\r\nHELP\r\n", 'pipelined');
my $help = "214-Commands\r\n AUTH\r\n PORT\r\n214 End\r\n";
$s->send("${help}211-Features\r\n AUTH TLS\r\n SIZE\r\n211 End\r\n$help");
is($c->reply, $help, 'help before');
is($c->reply, "211-Features\r\n SIZE\r\n211 End\r\n", 'only FEAT');
is($c->reply, $help, 'help after');
like($c->line, qr/\A502 /, 'local reply');

# 211 of another command

is($t->dialog($c, $s, STAT => "211-Status\r\n AUTH TLS in use\r\n211 End"),
    '', 'STAT');

# a long one streams

my $long = "211-Features\r\n" . join('', map { " X$_\r\n" } 1 .. 20_000)
    . "211 End\r\n";
$c->command('FEAT');
$s->line;
my $got = $s->pump($long, $c, until => sub { length $_[0] >= length $long });
ok($got eq $long, 'long');

# and a long line

$long = "211-Features\r\n " . 'x' x 70_000 . "\r\n211 End\r\n";
$c->command('FEAT');
$s->line;
$got = $s->pump($long, $c, until => sub { length $_[0] >= length $long });
ok($got eq $long, 'long line');
is($t->dialog($c, $s, NOOP => '200 in step'), '', 'in step');

$t->done;

sub feat {
    my ($reply) = @_;

    $c->command('FEAT');
    $s->line;
    $s->send($reply);

    return $c->reply;
}
