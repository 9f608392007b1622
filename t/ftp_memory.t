#!/usr/bin/perl

# A long session does not grow: thousands of replies rewritten, commands
# refused, transfers made and given up.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF", workers => 1, level => 'notice');
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

my $rounds = $ENV{TEST_NGINX_VALGRIND} ? 200 : 2000;
my ($c, $s) = $t->session($server);
my $listener = $server->passive;

my $wrong = run(100);
my $before = $t->memory;

$wrong += run($rounds);
is($wrong, 0, 'rounds');
cmp_ok($t->memory - $before, '<', $ENV{TEST_NGINX_VALGRIND} ? 16384 : 256,
    'memory');
note('grew by ', $t->memory - $before, ' kilobytes');

$t->done;

sub run {
    my ($rounds) = @_;

    my $wrong = 0;

    for (1 .. $rounds) {
        $wrong++ if $t->passive($c, $s, $listener) !~ /^227 /;

        my $port = $c->passive_port($t->passive($c, $s, $listener, 'EPSV'));
        my $near = $c->data($port);
        my $far = $listener->accept;

        $c->send("AUTH TLS\r\nRETR some/path\r\nFEAT\r\nPORT x\r\n");
        $s->line;
        $s->line;
        $s->send("150 here\r\n226 done\r\n211-Features\r\n PBSZ\r\n SIZE\r\n211 End\r\n");

        my $got = join ' ', map { substr $c->reply, 0, 3 } 1 .. 5;
        $wrong++ if $got ne '502 150 226 211 501';

        $far->send('x');
        $far->finish;
        $wrong++ if $near->rest ne 'x';
        $_->close for $near, $far;
    }

    return $wrong;
}
