#!/usr/bin/perl

# A name with several A records, of proxy_pass with a variable and of a server
# in an upstream that is resolved: data goes to the very address that control
# has reached, also when another one did not answer.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;
use Test::Nginx::FtpNames;

my $t = Test::Nginx::Ftp->new;

# A records have no port: all servers have the same one, and nobody has it at
# the dead address.
my $port = $t->port(40);
my %servers = map { $_ => $t->server(addr => $_, port => $port) }
    '127.0.0.2', '127.0.0.3';
my $dead = '127.0.0.4';

my $dns = Test::Nginx::FtpNames->new(
    'both.example' => ['127.0.0.2', '127.0.0.3'],
    'dead.example' => [$dead, '127.0.0.3'],
);

# since 1.27.3 without a subscription
my $resolves = $t->at_least('1.27.3');
my $resolved = $resolves ? <<"EOF" : '';
    upstream both {
        zone both 64k;
        server both.example:$port resolve;
    }

    upstream dead {
        zone dead 64k;
        server dead.example:$port resolve;
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=ftp;
        proxy_pass both;
    }

    server {
        listen 127.0.0.1:${\$t->port(3)};
        ftp_ctrl zone=ftp;
        proxy_pass dead;
    }
EOF

$t->run(<<"EOF");
    resolver ${\$dns->at} ipv6=off;
    log_format reached '\$server_port \$upstream_addr';
    access_log logs/access.log reached;

    map \$server_port \$backend {
        ${\$t->port(0)} both.example:$port;
        ${\$t->port(1)} dead.example:$port;
    }

    server {
        listen 127.0.0.1:${\$t->port(0)};
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass \$backend;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        access_log logs/data.log reached;
    }

$resolved
EOF

my @ways = (['variable', 0, 1], $resolves ? ['resolve', 2, 3] : ());

for my $way (@ways) {
    my ($name, $both, $half) = @$way;

    # by turns or by chance: enough sessions for each address
    my %reached;
    for (1 .. 60) {
        $reached{session("$name both", $both)}++;
        last if keys %reached == 2;
    }
    is(join(' ', sort keys %reached), '127.0.0.2 127.0.0.3', "$name both");

    my $listen = $t->port($half);
    my $tried = qr/^$listen \Q$dead:$port, 127.0.0.3:$port\E$/m;
    my $count = 0;
    for (1 .. 60) {
        is(session("$name dead", $half), '127.0.0.3', "$name dead");
        $t->wait_for("$name access log", sub {
            my @lines = $t->read_file('logs/access.log') =~ /^$listen .*$/mg;
            return @lines > $count;
        });
        $count++;
        last if $t->read_file('logs/access.log') =~ $tried;
    }
    like($t->read_file('logs/access.log'), $tried, "$name next upstream");
    ok($t->lines(qr/connect\(\) failed .*upstream: "\Q$dead:$port"/),
        "$name dead in the log");
}

$t->done;

# A session with a transfer for each way of asking; returns the server's address.
sub session {
    my ($name, $way) = @_;

    my $c = Test::Nginx::FtpClient->connect(port => $t->port($way));

    $t->wait_for("$name: a server",
        sub { grep { $_->touched } values %servers });

    my ($addr) = grep { $servers{$_}->touched } keys %servers;
    my $s = $servers{$addr}->accept;

    $s->send("220 ready\r\n");
    is($c->line, "220 ready\r\n", "$name greeting");

    for my $command ('PASV', 'EPSV') {
        my $listener = $servers{$addr}->passive;
        my $data = $listener->port;

        $c->command($command);
        is($s->line, "$command\r\n", "$name $command");

        # the 227 names an address of the server's own
        $s->send($command eq 'PASV'
            ? sprintf("227 Go (10,9,8,7,%d,%d)\r\n", $data >> 8, $data & 255)
            : "229 Go (|||$data|)\r\n");

        my $port = $c->passive_port($c->line);
        my $target = quotemeta "$addr:$data";
        ok($t->wait_log(qr/ftp reserved port $port for 127\.0\.0\.1, target $target,? .*upstream: "\Q$addr:/),
            "$name $command log");

        my $near = $c->data($port);
        my $far = $listener->accept;
        $far->send('x');
        $far->finish;
        is($near->rest, 'x', "$name $command data");
        $near->close;
        ok($t->wait_for("$name data log", sub {
            $t->read_file('logs/data.log') =~ /^$port $target$/m;
        }), "$name $command data log");
    }

    $s->close;
    is($c->ended, 'eof', "$name end");

    return $addr;
}
