#!/usr/bin/perl

# What active mode does not do: dial anybody but the client, at a port that may
# be a service, or let anybody but the server dial.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

$t->run(<<"EOF");
    log_format ftp '\$remote_addr \$status \$ftp_data_status';
    limit_conn_zone \$binary_remote_addr zone=addr:1m;

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        ftp_client_mode any;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(2)};
        ftp_ctrl zone=ftp;
        ftp_client_mode active;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(3)};
        ftp_ctrl zone=any:1m min_port=${\$t->port(30)} max_port=${\$t->port(33)};
        ftp_client_mode any;
        ftp_data_peer any;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->port(4)} proxy_protocol;
        ftp_ctrl zone=ftp;
        ftp_client_mode any;
        proxy_pass ${\$server->at};
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        deny 127.0.0.3;
        limit_conn addr 1;
        access_log logs/access.log ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(30, 33)};
        ftp_data zone=any;
        ftp_data_peer any;
    }
EOF

my ($c, $s) = $t->session($server);

# behind a balancer that nobody has said is one: neither its own address nor the
# client's

{
    my $near = Test::Nginx::FtpClient->connect(port => $t->port(4));
    $near->send("PROXY TCP4 192.0.2.9 192.0.2.1 40000 21\r\n");
    my $far = $server->accept;
    $far->send("220 ready\r\n");
    is($near->line, "220 ready\r\n", 'balancer greeting');

    for my $host ('127,0,0,1', '192,0,2,9') {
        $near->command("PORT $host,200,1");
        like($near->line, qr/^504 /, "balancer $host");
    }

    $_->close for $near, $far;
}

# addresses

my $victim = $t->server(addr => '127.0.0.2');
my $own = $t->server;

for my $case (
    ['PORT ' . $victim->hostport, qr/\A50[14] /],
    ['PORT 127,0,0,91,200,10', qr/\A50[14] /],
    ['PORT 127,0,0,1,0,25', qr/\A50[14] /],
    ['PORT 127,0,0,1,3,255', qr/\A50[14] /],
    ['PORT 127,0,0,1,0,0', qr/\A50[14] /],
    ['PORT 127,0,0,1,256,22', qr/\A501 /],
    ['PORT 127,0,0,1,124,22_', qr/\A501 /],
    ['PORT 127,0,0,1,124', qr/\A501 /],
    ['PORT', qr/\A501 /],
    ['EPRT |1|127.0.0.2|' . $victim->port . '|', qr/\A50[14] /],
    ['EPRT |1|127.0.0.1|25|', qr/\A50[14] /],
    ['EPRT |1|127.0.0.1|70000|', qr/\A501 /],
    ['EPRT |2|::1|40000|', qr/\A50[14] /],
    ['EPRT |3|x|40000|', qr/\A522 /],
    ['EPRT', qr/\A501 /],
) {
    my ($command, $reply) = @$case;

    $c->command($command);
    like($c->line, $reply, $command);
}

is($t->dialog($c, $s, NOOP => '200 okay'), '', 'server was told nothing');
is(join('', $t->lines(qr/ftp reserved/)), '', 'nothing reserved');

# what was reserved before is given back

my @told = $t->active($c, $s, $own);
$c->command('PORT ' . $victim->hostport);
like($c->line, qr/\A50[14] /, 'foreign address behind a good one');
is($t->dial($s, @told)->ended, 'reset', 'good one given back');

# diallers

@told = $t->active($c, $s, $own);
my $stranger = $t->dial($s, @told, bind => '127.0.0.92');
is($stranger->ended, 'reset', 'stranger');
ok($t->wait_log(qr/\[info\].*refused port $told[1]: not reserved.*127\.0\.0\.92/),
    'stranger logged');
is($t->dial($s, @told, bind => '127.0.0.1')->ended, 'reset',
    'the client itself');
ok(!$own->touched, 'client not dialled');

my $far = $t->dial($s, @told);
my $near = $own->accept;
is($t->dial($s, @told)->ended, 'reset', 'second connection');
$far->send('x');
is($near->bytes(1), 'x', 'first one lives');
$far->finish;
is($near->ended, 'eof', 'first one ends');
is($t->dial($s, @told)->ended, 'reset', 'third connection');
ok(!$own->touched, 'client dialled once');

# access and limits mean the client in either mode

{
    my ($c, $s) = $t->session($server, bind => '127.0.0.3');
    my $listener = $t->server(addr => '127.0.0.3');

    $far = $t->dial($s, $t->active($c, $s, $listener));
    is($far->ended, 'reset', 'denied client');
    is($listener->accept->ended, 'reset', 'denied client end');

    ($c, $s) = $t->session($server, bind => '127.0.0.4');
    ($near, $far) = $t->active_data($c, $s);
    $far->send('x');
    is($near->bytes(1), 'x', 'within limit_conn');

    $listener = $t->server(addr => '127.0.0.4');
    my $more = $t->dial($s, $t->active($c, $s, $listener));
    is($more->ended, 'reset', 'over limit_conn');
    is($listener->accept->ended, 'reset', 'over limit_conn end');

    my ($c2, $s2) = $t->session($server, bind => '127.0.0.5');
    my ($near2, $far2) = $t->active_data($c2, $s2);
    $far2->send('y');
    is($near2->bytes(1), 'y', 'other client, same server');
}

# modes that are not allowed

for my $case (
    [1, 'passive', ["PORT ${\$own->hostport}",
        "EPRT |1|127.0.0.1|${\$own->port}|"], 'EPSV'],
    [2, 'active', ['PASV', 'EPSV', 'EPSV 1'], 'PORT'],
) {
    my ($port, $name, $refused, $allowed) = @$case;
    my ($c, $s) = $t->session($server, port => $t->port($port));

    for my $command (@$refused) {
        $c->command($command);
        like($c->line, qr/\A50[24] /, "$name: $command");
    }

    my ($near, $far) = $allowed eq 'PORT'
        ? $t->active_data($c, $s) : $t->data($c, $s, $allowed);
    $far->send('x');
    is($near->bytes(1), 'x', "$name: $allowed");
}

# without the check anybody may dial, but the client alone is dialled

($c, $s) = $t->session($server, port => $t->port(3));
$c->command('PORT ' . $victim->hostport);
like($c->line, qr/\A50[14] /, 'foreign address');
@told = $t->active($c, $s, $own);
$far = $t->dial($s, @told, bind => '127.0.0.92');
$near = $own->accept;
$far->send('z');
is($near->bytes(1), 'z', 'ftp_data_peer any');
ok(!$victim->touched, 'nobody else was dialled');

$t->done;
