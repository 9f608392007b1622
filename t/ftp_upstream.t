#!/usr/bin/perl

# Several servers in an upstream, a dead one among them, a variable in
# proxy_pass: data goes to the very server that control has reached.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my @servers = map { $t->server(addr => "127.0.0.$_") } 1 .. 2;
my $dead = $t->server;
my $nobody = $dead->at;
$dead->close;

$t->run(<<"EOF");
    upstream both {
        zone upstreams 64k;
        server ${\$servers[0]->at};
        server ${\$servers[1]->at};
    }

    upstream dead {
        server $nobody;
        server ${\$servers[1]->at} backup;
    }

    map \$server_port \$backend {
        default ${\$servers[1]->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass both;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        proxy_pass dead;
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=ftp;
        proxy_pass \$backend;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

my %reached;

for (1 .. 4) {
    my $c = Test::Nginx::FtpClient->connect(port => $t->port(0));

    $t->wait_for('a server', sub { grep { $_->touched } @servers });
    my ($server) = grep { $_->touched } @servers;

    follows('upstream', $c, $server);
    $reached{$server->at}++;
}

is(join(' ', sort values %reached), '2 2', 'both servers');

my $c = Test::Nginx::FtpClient->connect(port => $t->port(1));
follows('dead', $c, $servers[1]);

$c = Test::Nginx::FtpClient->connect(port => $t->port(2));
follows('variable', $c, $servers[1]);

$t->done;

sub follows {
    my ($name, $c, $server) = @_;

    my $s = $server->accept;
    $s->send("220 ready\r\n");
    is($c->line, "220 ready\r\n", "$name greeting");

    for my $command ('PASV', 'EPSV') {
        my ($near, $far) = $t->data($c, $s, $command);
        is($far->local_addr, $s->local_addr, "$name $command");
        $far->send('x');
        $far->finish;
        is($near->rest, 'x', "$name $command data");
    }
}
