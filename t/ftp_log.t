#!/usr/bin/perl

# error.log at level info: one line per step of a reservation, and nothing
# above info in normal work; no password anywhere.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    log_format all '\$remote_addr \$ftp_session \$ftp_data_port \$ftp_mode '
                   '\$ftp_user \$ftp_command \$ftp_path \$ftp_data_status';
    access_log logs/access.log all;

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
my $listener = $server->passive;
my $target = '127\.0\.0\.1:' . $listener->port;
my $context = qr/client: 127\.0\.0\.1, server: 127\.0\.0\.1:/;

is($t->dialog($c, $s, 'USER alice' => '331 who', 'PASS S3cret!word' => '230 in',
    'pass S3cret!word' => '503 in already'), '', 'login');

# its life

my $port = $c->passive_port($t->passive($c, $s, $listener));
logged('reserved',
    qr/ftp reserved port $port for 127\.0\.0\.1, target $target,? .*$context/);

my $near = $c->data($port);
my $far = $listener->accept;
logged('matched', qr/ftp matched port $port, target $target,? .*$context/);
$far->send('x');
$far->finish;
is($near->rest, 'x', 'data');

# given back unused

$port = $c->passive_port($t->passive($c, $s, $listener));
$t->passive($c, $s, $listener);
logged('released', qr/ftp released port $port\b.*$context/);

# refused

($port) = grep { !$t->lines(qr/reserved port $_ /) } map { $t->port($_) } 10 .. 20;
is($c->data($port)->ended, 'reset', 'nobody');
logged('refused', qr/ftp refused port $port: not reserved.*$context/);

# an ordinary session says nothing else

is($t->dialog($c, $s, 'RETR secretless' => '550 no', QUIT => '221 bye'), '',
    'quit');
$s->close;
is($c->ended, 'eof', 'end');
$t->wait_access(3);

is(join('', $t->lines(qr/\[(?!info\]|notice\])/)), '', 'nothing above info');

# a password split over segments, a broken session, a very long one

($c, $s) = $t->session($server);
$c->send('PASS S3cr', 'et!wor', "d\r\n");
is($s->line, "PASS S3cret!word\r\n", 'password passed');
$s->send("530 wrong S3cret!word\r\n");
is($c->line, "530 wrong S3cret!word\r\n", 'answer passed');
$c->send('PASS S3cret!word' . 'x' x 9000 . "\r\n");
like($c->line, qr/\A500 /, 'too long');
$c->close;

($c, $s) = $t->session($server);
$c->send("PASS S3cret!word\0\r\n", 'PASS S3cret!word');
$c->close;
$s->ended;
$t->wait_access(5);

unlike($t->log, qr/S3cr|et!wor/, 'no password in error.log');
unlike($t->read_file('logs/access.log'), qr/S3cr|et!wor/,
    'no password in access.log');

$t->done;

sub logged {
    my ($name, $pattern) = @_;

    ok($t->wait_log(qr/\[info\] \d+#\d+: \*\d+ $pattern/), $name);
}
