#!/usr/bin/perl

# Variables on both servers: who moved which file, which way, how many bytes,
# and whether it ended well.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my $server = $t->server;

$t->run(<<"EOF");
    log_format ftp '\$ftp_session|\$ftp_data_port|\$ftp_mode|\$ftp_user|'
                   '\$ftp_command|\$ftp_path|\$ftp_data_status|'
                   '\$bytes_received|\$bytes_sent|\$status|\$server_port';

    server {
        listen 127.0.0.1:${\$t->port(0)};
        ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(20)};
        proxy_pass ${\$server->at};
        access_log logs/control.log ftp;
    }

    server {
        listen 127.0.0.1:${\$t->range(10, 20)};
        ftp_data zone=ftp;
        access_log logs/data.log ftp;
    }

    server {
        listen 127.0.0.1:${\$t->port(1)};
        return \$ftp_session\$ftp_data_port\$ftp_mode;
        access_log logs/plain.log ftp;
    }
EOF

my $count = 0;
my ($c, $s) = $t->session($server);
my $id;

# before a user is known

transfer('no user', 'PASV', 'LIST', '', down => 'list');
is(data('user'), '-', 'no user');
is(data('path'), '-', 'no path');
is(data('command'), 'LIST', 'list command');
$id = data('session');
like($id, qr/^[0-9a-f]{16}$/, 'session id');

is($t->dialog($c, $s, 'USER alice' => '331 who', 'PASS x' => '230 in'), '',
    'login');

# a download

my $port = transfer('download', 'EPSV', 'retr', ' dir/a file', down => 'x' x 5000);
is(data('session'), $id, 'same session');
is(data('port'), $port, 'data port');
is(data('mode'), 'EPSV', 'mode');
is(data('user'), 'alice', 'user');
is(data('command'), 'RETR', 'command');
is(data('path'), 'dir/a file', 'path');
is(data('status'), 'complete', 'complete');
is(data('received') . ' ' . data('sent'), '0 5000', 'bytes down');

# an upload

$port = transfer('upload', 'PASV', 'STOR', ' b', up => 'x' x 300);
is(data('mode'), 'PASV', 'PASV mode');
is(data('command') . ' ' . data('path'), 'STOR b', 'upload command');
is(data('received') . ' ' . data('sent'), '300 0', 'bytes up');
is(data('status'), 'complete', 'upload complete');

# the other verbs

transfer('empty', 'PASV', 'RETR', ' nothing', down => '');
is(data('status'), 'complete', 'empty complete');

for my $verb (qw(STOU APPE NLST MLSD)) {
    transfer($verb, 'PASV', $verb, ' p', down => 'x');
    is(data('command') . ' ' . data('path'), "$verb p", $verb);
}

# odd paths are escaped as nginx does

transfer('odd', 'PASV', 'RETR', " \xff\"\\\t\x01", down => 'x');
is(data('path'), '\xFF\x22\x5C\x09\x01', 'escaped');

# a long one is cut somewhere, and not in the middle of the log

transfer('long', 'PASV', 'RETR', ' ' . 'p' x 4000, down => 'x');
like(data('path'), qr/^p{16,4000}$/, 'long path');

# a cut one

my ($near, $far) = $t->data($c, $s);
is($t->dialog($c, $s, 'STOR cut' => '150 here'), '', 'cut begins');
$near->send('part');
is($far->bytes(4), 'part', 'cut part');
$near->reset;
is($far->ended, 'reset', 'cut end');
$s->send("426 cut\r\n");
is($c->line, "426 cut\r\n", 'cut reply');
$t->wait_access(++$count, 'logs/data.log');
is(data('status'), 'cut', 'cut');
is(data('path'), 'cut', 'cut path');

# a refused one

is($c->data($t->port(11))->ended, 'reset', 'stranger');
$t->wait_access(++$count, 'logs/data.log');
is(data('status'), 'refused', 'refused');
is(data('session') . data('user') . data('command') . data('path'), '----',
    'nothing else of it');
is(data('port'), $t->port(11), 'refused port');

# the control side

$port = $c->passive_port($t->passive($c, $s, $server->passive, 'EPSV'));
is($t->dialog($c, $s, 'NLST last one' => '550 no', 'PASS again' => '503 no',
    QUIT => '221 bye'), '', 'quit');
$s->close;
$c->ended;

my ($line) = $t->wait_access(1, 'logs/control.log');
my @fields = split /\|/, $line;
is($fields[0], $id, 'control session');
is($fields[1], $port, 'control port');
is($fields[2], 'EPSV', 'control mode');
is($fields[3], 'alice', 'control user');
is("$fields[4] $fields[5]", 'NLST last one', 'control command');
is($fields[6], '-', 'control status');

# another session is another

($c, $s) = $t->session($server);
transfer('second', 'PASV', 'LIST', '', down => '');
isnt(data('session'), $id, 'other session');
is(data('user'), '-', 'other user');

# without ftp they are empty

is(Test::Nginx::FtpClient->connect(port => $t->port(1))->rest, '', 'empty');
($line) = $t->wait_access(1, 'logs/plain.log');
like($line, qr/^-\|-\|-\|-\|-\|-\|-\|/, 'empty in log');

$t->done;

# One transfer with that command, way and bytes; returns its port.
sub transfer {
    my ($name, $mode, $verb, $path, $way, $bytes) = @_;

    my $listener = $server->passive;
    my $port = $c->passive_port($t->passive($c, $s, $listener, $mode));
    my $near = $c->data($port);
    my $far = $listener->accept;

    my $got = $t->dialog($c, $s, "$verb$path" => '150 here');

    my ($from, $to) = $way eq 'up' ? ($near, $far) : ($far, $near);
    $from->send($bytes);
    $from->finish;
    $got .= $to->rest eq $bytes ? '' : 'bytes differ';

    $s->send("226 done\r\n");
    $got .= $c->line;
    is($got, "226 done\r\n", "$name transfer");

    $t->wait_access(++$count, 'logs/data.log');

    return $port;
}

# A field of the last line about data.
sub data {
    my ($field) = @_;

    my %place = (session => 0, port => 1, mode => 2, user => 3, command => 4,
        path => 5, status => 6, received => 7, sent => 8);

    my @lines = split /\n/, $t->read_file('logs/data.log');

    return (split /\|/, $lines[-1] // '')[$place{$field}] // '';
}
