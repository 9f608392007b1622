#!/usr/bin/perl

# Active mode in the logs: the data server's lines are about the client and the
# server as in passive mode, whoever has dialled.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server(addr => '127.0.0.91');

$t->run(<<"EOF");
    ftp_client_mode any;
    log_format data '\$remote_addr \$ftp_mode \$ftp_data_port \$ftp_user '
                    '\$ftp_command \$ftp_path \$bytes_sent \$bytes_received '
                    '\$upstream_addr \$upstream_bytes_sent '
                    '\$upstream_bytes_received \$status \$ftp_data_status '
                    '\$ftp_session';
    log_format control '\$ftp_mode \$ftp_data_port \$ftp_session';
    map \$remote_addr \$whose { 127.0.0.1 theirs; default ours; }

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
        access_log logs/control.log control;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        access_log logs/\$whose.log data;
    }
EOF

my ($c, $s) = $t->session($server);
is($t->dialog($c, $s, 'USER alice' => '331 who', 'PASS secret' => '230 in'),
    '', 'login');

my $n = 0;
my ($session, $port);

for my $command ('PORT', 'EPRT') {
    for my $verb ('RETR', 'STOR') {
        my $listener = $t->server;
        my $target = '127\.0\.0\.1:' . $listener->port;
        my @told;

        (undef, $port) = @told = $t->active($c, $s, $listener, $command);

        my $line = $t->wait_log(
            qr/ftp reserved port $port for 127\.0\.0\.91, target $target\b/);
        ($session) = $line =~ /session ([0-9a-f]{16})/;
        like($line, qr/\[info\].*client: 127\.0\.0\.1, /, "$command $verb reserved");

        my $far = $t->dial($s, @told);
        my $near = $listener->accept;
        my $from = $far->local_port;

        $c->command("$verb a file");
        is($s->line, "$verb a file\r\n", "$command $verb command");
        $s->send("150 now\r\n");
        is($c->line, "150 now\r\n", "$command $verb 150");

        my ($give, $take) = $verb eq 'RETR' ? ($far, $near) : ($near, $far);
        $give->send('x' x 1000);
        $give->finish;
        is(length $take->rest, 1000, "$command $verb bytes");

        my ($sent, $received) = $verb eq 'RETR' ? (1000, 0) : (0, 1000);

        is(($t->wait_access(++$n, 'logs/theirs.log'))[-1],
            "127.0.0.1 $command $port alice $verb a file $sent $received "
            . "127.0.0.91:$from $received $sent 200 complete $session",
            "$command $verb line");
        ok($t->wait_log(qr/ftp finished port $port of 127\.0\.0\.91, target $target, session $session: complete/),
            "$command $verb finished");

        $s->send("226 done\r\n");
        is($c->line, "226 done\r\n", "$command $verb 226");
    }
}

# given back unused

(undef, my $unused) = $t->active($c, $s, $t->server);
(undef, $port) = $t->active($c, $s, $t->server, 'EPRT');
ok($t->wait_log(qr/\[info\].*ftp released port $unused\b/), 'released');

is($t->dialog($c, $s, QUIT => '221 bye'), '', 'quit');
$s->close;
is($c->ended, 'eof', 'end');
is(($t->wait_access(1, 'logs/control.log'))[0], "EPRT $port $session",
    'control line');

is(join('', $t->lines(qr/\[(?!info\]|notice\])/)), '', 'nothing above info');
is($t->read_file('logs/ours.log'), '', 'no address of the server');

$t->done;
