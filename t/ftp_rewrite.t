#!/usr/bin/perl

# Every form of 227 and 229 that servers write (R1 to R6, R8, R10, R11): the
# client sees the proxy's address and port, and data reaches the server's.

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
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)}
                 proxy_ip=203.0.113.5;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my ($c, $s) = $t->session($server);

# %h: the host of a 227, %p: its two numbers, %e: the port of a 229;
# %P and %E: what must come out

pasv('R1 parentheses', "Entering Passive Mode (10,0,0,5,%p).",
    'Entering Passive Mode %P.');
pasv('R2 no parentheses', 'Entering Passive Mode. 10,0,0,5,%p',
    'Entering Passive Mode. %P');
pasv('R3 words only', 'Data transfer will passively listen to 10,0,0,5,%p',
    'Data transfer will passively listen to %P');
pasv('R4 equal sign', '=10,0,0,5,%p', '=%P');
pasv('R5 dots', 'Passive (10.0.0.5.%d)', 'Passive %P');
pasv('R6 digit before', "Passzivm\xc3\xb3d 2 (10, 0, 0, 5, %s)",
    "Passzivm\xc3\xb3d 2 %P");
pasv('R8 unspecified', 'Passive (0,0,0,0,%p)', 'Passive %P');
pasv('R9 another host', 'Passive (169,254,169,254,%p)', 'Passive %P');

# words that name the address or port again would give it away
pasv('address again', '10.0.0.5 is passive (10,0,0,5,%p)', undef);
pasv('port again', 'Passive (10,0,0,5,%p) at %e', undef);

epsv('R10 bars', 'Extended (|||%e|)', 'Extended %E');
epsv('R10 exclamations', 'Extended (!!!%e!)', 'Extended %E');
epsv('R10 dollars', 'Extended ($$$%e$)', 'Extended %E');
epsv('R10 first delimiter', 'Extended (~~~%e~)', 'Extended %E');
epsv('R11 no parentheses', 'Extended |||%e|', 'Extended %E');
epsv('R11 with address', 'Extended (|1|10.0.0.5|%e|)', 'Extended %E');
epsv('R11 words after', 'Extended (|||%e|) go on.', 'Extended %E go on.');

# no code but the right one answers EPSV with 227's form, or the other way
# round; the mapping is the same
vector('227 to EPSV', 'EPSV', '227', 'Passive (10,0,0,5,%p)', undef);

$t->done;

sub pasv { vector(shift, 'PASV', '227', @_) }
sub epsv { vector(shift, 'EPSV', '229', @_) }

sub vector {
    my ($name, $command, $code, $sent, $expected) = @_;

    my $listener = $server->passive;
    my $target = $listener->port;
    my ($high, $low) = ($target >> 8, $target & 255);

    $sent =~ s/%p/$high,$low/;
    $sent =~ s/%d/$high.$low/;
    $sent =~ s/%s/$high, $low/;
    $sent =~ s/%e/$target/;

    $c->command($command);
    is($s->line, "$command\r\n", "$name command");
    $s->send("$code $sent\r\n");

    my $reply = $c->reply;
    my $port = $c->passive_port($reply);

    if ($name eq '227 to EPSV') {
        # never the raw reply; 425 or a 227 of the proxy's own
        unlike($reply, qr/10,0,0,5|$high,$low/, $name);
        return;
    }

    if (!$t->in_range($port, 10, 20)) {
        fail($name);
        diag("got '$reply'");
        return;
    }

    if (defined $expected) {
        my $hostport = sprintf '(203,0,113,5,%d,%d)', $port >> 8, $port & 255;

        $expected =~ s/%P/$hostport/;
        $expected =~ s/%E/(|||$port|)/;

        is($reply, "$code $expected\r\n", $name);

    } else {
        unlike($reply, qr/10.0.0.5|$target/, $name);
    }

    my $near = $c->data($port);
    my $far = $listener->accept;

    $c->command('STOR f');
    is($s->line, "STOR f\r\n", "$name STOR");
    $near->send($name);
    $near->finish;
    is($far->rest, $name, "$name data");
    $s->send("226 done\r\n");
    is($c->line, "226 done\r\n", "$name end");
}
