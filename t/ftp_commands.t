#!/usr/bin/perl

# Spellings of PASV (C1), what the proxy refuses itself (C3, C4, C5), and
# which commands end a reservation (C7, C8).

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
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(40)};
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 40)};
        ftp_data zone=ftp;
    }
EOF

my ($c, $s) = $t->session($server);

# C1

for my $command ("pasv\r\n", "PaSv\n", "PASV \r\n", "pasv\n", "PASV\r\n") {
    (my $name = $command) =~ s/\r?\n//;

    my $listener = $server->passive;

    $c->send($command);
    is($s->line, $command, "C1 $name");
    $s->send("227 x (${\$listener->hostport})\r\n");
    used("C1 $name", $c->line, $listener);
}

# some servers answer an empty line and some do not: it stays here

my $listener = $server->passive;
$c->send("\r\nPASV\r\n");
is($s->line, "PASV\r\n", 'C1 empty line');
$s->send("227 x (${\$listener->hostport})\r\n");
used('C1 empty line', $c->line, $listener);

# C3

refused('C3 low port', 'PORT 10,0,0,9,0,25', 501, 504);
refused('C3 foreign address', 'PORT 10,0,0,9,200,25', 504);
refused('C3 own address', 'PORT 127,0,0,1,200,25', 504);
refused('C3 field of 256', 'PORT 10,0,0,9,256,22', 501);
refused('C3 trailing letter', 'PORT 10,0,0,9,124,22_', 501);
refused('C3 five numbers', 'PORT 10,0,0,9,124', 501);
refused('C3 seven numbers', 'PORT 10,0,0,9,124,1,1', 501);
refused('C3 no argument', 'PORT', 501);
refused('C3 lower case', 'port 10,0,0,9,200,25', 504);

# C4

refused('C4 IPv6', 'EPRT |2|1080::8:800:200C:417A|5282|', 504);
refused('C4 delimiter', 'EPRT !2!::1!80!', 501, 504);
refused('C4 IPv4', 'EPRT |1|10.0.0.1|5282|', 504);
refused('C4 unknown family', 'EPRT |3|x|5282|', 522);
refused('C4 wrong family', 'EPRT |1|::1|5282|', 501, 522);
refused('C4 port too high', 'EPRT |1|10.0.0.1|99999|', 501);
refused('C4 no end', 'EPRT |1|10.0.0.1|5282', 501);
refused('C4 no argument', 'EPRT', 501);

# C5 and their like

refused("C5 $_", $_, 502)
    for 'LPSV', 'LPRT 4,4,10,0,0,9,2,0,25', 'SPSV', 'spsv x', 'CPSV',
    'SSCN ON';
refused($_, $_, 502)
    for 'AUTH TLS', 'auth ssl', 'AUTH GSSAPI', 'ADAT x', 'MIC x', 'CONF x',
    'ENC x', 'CCC';

# C7

my @old = map { $c->passive_port($t->passive($c, $s, $listener, $_)) }
    'PASV', 'PASV';
my $last = $t->passive($c, $s, $listener, 'EPSV');
is($t->dialog($c, $s, LIST => '150 here'), '', 'C7 LIST');

# a port may come again for the next of them
for my $port (grep { $_ != $c->passive_port($last) } @old) {
    is($c->data($port)->ended, 'reset', 'C7 older reservation');
}

used('C7', $last, $listener);
ok($t->lines(qr/\[info\].*ftp released port $_/) > 0, 'C7 released') for @old;

# C8

for my $command ('REIN', 'USER y', 'rein') {
    my $port = $c->passive_port($t->passive($c, $s, $listener));
    is($t->dialog($c, $s, $command => '220 anew'), '', "C8 $command");
    dead("C8 $command", $port);
}

for my $command ('PORT 127,0,0,1,200,25', 'EPRT |1|127.0.0.1|5282|') {
    my $port = $c->passive_port($t->passive($c, $s, $listener));
    refused("C8 $command", $command, 504);
    dead("C8 $command", $port);
}

# other commands leave it alone

$last = $t->passive($c, $s, $listener);
is($t->dialog($c, $s, 'TYPE I' => '200 ok', 'REST 5' => '350 ok',
    NOOP => '200 ok', PWD => '257 "/"'), '', 'others');
used('others', $last, $listener);

# the end of the control connection

my $port = $c->passive_port($t->passive($c, $s, $listener));
$t->new_log(qr/ftp released port $port\b/, sub {
    $c->finish;
    is($s->ended, 'eof', 'control end');
});
is($c->data($port)->ended, 'reset', 'dead after control end');

ok(!$listener->touched, 'server untouched');

$t->done;

sub used {
    my ($name, $reply, $listener) = @_;

    my $near = $c->data($c->passive_port($reply));
    my $far = $listener->accept;

    $far->send($name);
    $far->finish;
    is($near->rest, $name, "$name data");
}

sub dead {
    my ($name, $port) = @_;

    is($c->data($port)->ended, 'reset', "$name ends it");
}

# Answered by the proxy; the server hears the next command only.
sub refused {
    my ($name, $command, @codes) = @_;

    my $codes = join '|', @codes;

    $c->command($command);
    like($c->line, qr/\A(?:$codes) [^\r\n]+\r\n\z/, $name);
    is($t->dialog($c, $s, NOOP => '200 in step'), '', "$name not passed");
}
