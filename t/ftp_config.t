#!/usr/bin/perl

# Mistakes in the configuration: nginx -t names each with file and line.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Test::Nginx::Ftp;

my $t = Test::Nginx::Ftp->new;
my ($a, $b, $c) = map { "127.0.0.1:" . $t->port($_) } 0 .. 2;
my $data = "127.0.0.1:" . $t->range(10, 20);
my $range = "min_port=${\$t->port(10)} max_port=${\$t->port(20)}";

# what ftp_ctrl says

control('zone needed', "ftp_ctrl $range;",
    '"ftp_ctrl" must have "zone" parameter');
control('no range', 'ftp_ctrl zone=ftp:1m;', 'zone "ftp" has no port range');
control('min_port needed', 'ftp_ctrl zone=ftp:1m max_port=2000;',
    '"ftp_ctrl" must have "min_port" parameter');
control('max_port needed', 'ftp_ctrl zone=ftp:1m min_port=2000;',
    '"ftp_ctrl" must have "max_port" parameter');

control('zone twice', "ftp_ctrl zone=ftp:1m $range zone=ftp;",
    'duplicate parameter "zone=ftp"');
control('min_port twice', "ftp_ctrl zone=ftp:1m $range min_port=1;",
    'duplicate parameter "min_port=1"');
control('max_port twice', "ftp_ctrl zone=ftp:1m $range max_port=1;",
    'duplicate parameter "max_port=1"');
control('proxy_ip twice',
    "ftp_ctrl zone=ftp:1m $range proxy_ip=127.0.0.1 proxy_ip=127.0.0.2;",
    'duplicate parameter "proxy_ip=127.0.0.2"');

control('unknown parameter', "ftp_ctrl zone=ftp:1m $range ports=1;",
    'invalid parameter "ports=1"');
control('bare word', "ftp_ctrl zone=ftp:1m $range on;",
    'invalid parameter "on"');

control('size no number', "ftp_ctrl zone=ftp:big $range;",
    'invalid zone size "ftp:big"', 'invalid zone size "big"',
    'invalid zone size "zone=ftp:big"');
control('zone without name', "ftp_ctrl zone=:1m $range;",
    'invalid zone size ":1m"');
control('zone too small for many', "ftp_ctrl zone=ftp:16k $range;",
    qr/zone "ftp" is too small: \d+ reservations fit, at least \d+ are needed/);
control('zone too small', "ftp_ctrl zone=ftp:1k $range;",
    qr/zone "ftp" is too small: /);

control('port zero', 'ftp_ctrl zone=ftp:1m min_port=0 max_port=2000;',
    'invalid port "0"', 'invalid port "min_port=0"');
control('port too high', 'ftp_ctrl zone=ftp:1m min_port=2000 max_port=65536;',
    'invalid port "65536"', 'invalid port "max_port=65536"');
control('port no number', 'ftp_ctrl zone=ftp:1m min_port=2x max_port=2000;',
    'invalid port "2x"', 'invalid port "min_port=2x"');
control('port negative', 'ftp_ctrl zone=ftp:1m min_port=-1 max_port=2000;',
    'invalid port "-1"', 'invalid port "min_port=-1"');
control('port empty', 'ftp_ctrl zone=ftp:1m min_port= max_port=2000;',
    'invalid port ""', 'invalid port "min_port="');
control('upside down', 'ftp_ctrl zone=ftp:1m min_port=2000 max_port=1000;',
    'invalid port range "2000-1000"');

control('address no number', "ftp_ctrl zone=ftp:1m $range proxy_ip=nginx;",
    'invalid "proxy_ip" address "nginx"');
control('address IPv6', "ftp_ctrl zone=ftp:1m $range proxy_ip=::1;",
    'invalid "proxy_ip" address "::1"');
control('address short', "ftp_ctrl zone=ftp:1m $range proxy_ip=10.0.0;",
    'invalid "proxy_ip" address "10.0.0"');
control('address big', "ftp_ctrl zone=ftp:1m $range proxy_ip=10.0.0.256;",
    'invalid "proxy_ip" address "10.0.0.256"');
control('server_ip twice',
    "ftp_ctrl zone=ftp:1m $range server_ip=127.0.0.1 server_ip=::1;",
    'duplicate parameter "server_ip=::1"');
control('server_ip no address', "ftp_ctrl zone=ftp:1m $range server_ip=nginx;",
    'invalid "server_ip" address "nginx"');
control('server_ip with port',
    "ftp_ctrl zone=ftp:1m $range server_ip=127.0.0.1:21;",
    'invalid "server_ip" address "127.0.0.1:21"');
control('server_ip nowhere', "ftp_ctrl zone=ftp:1m $range server_ip=::;",
    'invalid "server_ip" address "::"');
control('unknown variable', "ftp_ctrl zone=ftp:1m $range proxy_ip=\$nothing;",
    qr/unknown "nothing" variable/);

control('ftp_ctrl twice', "ftp_ctrl zone=ftp:1m $range; ftp_ctrl zone=ftp;",
    '"ftp_ctrl" directive is duplicate');

# the zone as a whole

wrong('two sizes', <<"EOF", 2, qr/the size \d+ of shared memory zone "ftp" conflicts with already declared size \d+/);
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $b; ftp_ctrl zone=ftp:2m; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; }
EOF

wrong('half a range', <<"EOF", 2, '"ftp_ctrl" must have "max_port" parameter');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $b; ftp_ctrl zone=ftp min_port=${\$t->port(10)}; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; }
EOF

wrong('two ranges', <<"EOF", 5, qr/zone "ftp" is already declared with port range "${\$t->range(10, 20)}"/);
    server {
        listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c;
    }
    server { listen $b; proxy_pass $c;
        ftp_ctrl zone=ftp min_port=${\$t->port(10)} max_port=${\$t->port(21)};
    }
    server { listen $data; ftp_data zone=ftp; }
EOF

wrong('two peer checks', <<"EOF", undef, '"ftp_data_peer" differs between the servers of zone "ftp"');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; ftp_data_peer any; }
EOF

wrong('two control servers, two peer checks', <<"EOF", undef, '"ftp_data_peer" differs between the servers of zone "ftp"');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; ftp_data_peer any; }
    server { listen $b; ftp_ctrl zone=ftp; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; ftp_data_peer any; }
EOF

wrong('unknown zone', <<"EOF", undef, qr/zone "other" has no size: no "ftp_ctrl" says "zone=other:size"/);
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; ftp_data zone=other; }
EOF

wrong('ftp_data alone', <<"EOF", undef, qr/zone "ftp" has no size: no "ftp_ctrl" says "zone=ftp:size"/);
    server { listen $data; ftp_data zone=ftp; }
EOF

# what ftp_data says

data('a size', 'ftp_data zone=ftp:1m;',
    'invalid zone "ftp:1m": only "ftp_ctrl" has a size');
data('zone needed', 'ftp_data zone=;',
    '"ftp_data" must have "zone" parameter', 'invalid parameter "zone="',
    'invalid zone name "zone="');
data('unknown parameter', 'ftp_data zone=ftp port=1;',
    'invalid parameter "port=1"',
    'invalid number of arguments in "ftp_data" directive');
data('zone twice', 'ftp_data zone=ftp zone=ftp;',
    'duplicate parameter "zone=ftp"',
    'invalid number of arguments in "ftp_data" directive');
data('no parameter', 'ftp_data;',
    '"ftp_data" must have "zone" parameter',
    'invalid number of arguments in "ftp_data" directive');
data('ftp_data twice', 'ftp_data zone=ftp; ftp_data zone=ftp;',
    '"ftp_data" directive is duplicate');
data('ctrl after data', "ftp_data zone=ftp; ftp_ctrl zone=ftp;",
    '"ftp_ctrl" and "ftp_data" cannot be in one server');
data('data after ctrl', "ftp_ctrl zone=ftp; ftp_data zone=ftp;",
    '"ftp_ctrl" and "ftp_data" cannot be in one server');
data('proxy_pass before', "proxy_pass $c; ftp_data zone=ftp;",
    '"ftp_data" cannot be combined with "proxy_pass" or "return"');
data('proxy_pass after', "ftp_data zone=ftp; proxy_pass $c;",
    '"proxy_pass" directive is duplicate');
data('return before', "return x; ftp_data zone=ftp;",
    '"ftp_data" cannot be combined with "proxy_pass" or "return"');
data('return after', "ftp_data zone=ftp; return x;",
    '"ftp_data" cannot be combined with "proxy_pass" or "return"');

# the name of the upstream that ftp_data makes for itself is nobody else's

wrong('upstream before', <<"EOF", undef, 'duplicate upstream "ftp_data_reservation"');
    upstream ftp_data_reservation { server $c; }
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass ftp_data_reservation; }
    server { listen $data; ftp_data zone=ftp; }
EOF

wrong('upstream after', <<"EOF", 3, 'duplicate upstream "ftp_data_reservation"');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass ftp_data_reservation; }
    server { listen $data; ftp_data zone=ftp; }
    upstream ftp_data_reservation { server $c; }
EOF

# what stands beside ftp_ctrl

wrong('return', <<"EOF", undef, '"ftp_ctrl" needs "proxy_pass"');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; return x; }
    server { listen $data; ftp_data zone=ftp; }
EOF

# the first is nginx's own, up to 1.25
wrong('no proxy_pass', <<"EOF", undef, qr/no handler for server/, '"ftp_ctrl" needs "proxy_pass"');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; }
    server { listen $data; ftp_data zone=ftp; }
EOF

wrong('not in a server', <<"EOF", 1, '"ftp_ctrl" directive is not allowed here');
    ftp_ctrl zone=ftp:1m $range;
EOF

wrong('data not in a server', <<"EOF", 1, '"ftp_data" directive is not allowed here');
    ftp_data zone=ftp;
EOF

# from 1.25.5 on an address may have several servers: TLS tells which

if ($t->at_least('1.25.5')) {
    wrong('one address, two kinds', <<"EOF", undef, 'servers of one address must have the same "ftp_ctrl" or "ftp_data" zone');
    server { listen $a; server_name a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $a; server_name b; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; }
EOF
}

wrong('udp control', <<"EOF", undef, '"ftp_ctrl" does not support "udp"');
    server { listen $a udp; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; }
EOF

wrong('udp data', <<"EOF", undef, '"ftp_data" does not support "udp"');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; listen $data udp; ftp_data zone=ftp; }
EOF

wrong('unix data', <<"EOF", undef, '"ftp_data" does not support unix sockets');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; listen unix:${\$t->dir}/data.sock; ftp_data zone=ftp; }
EOF

# the small ones

control('peer unknown', "ftp_ctrl zone=ftp:1m $range; ftp_data_peer all;",
    'invalid "ftp_data_peer" value "all"',
    'invalid value "all"');
control('peer twice', "ftp_data_peer same; ftp_data_peer same; "
    . "ftp_ctrl zone=ftp:1m $range;", '"ftp_data_peer" directive is duplicate');
control('mode unknown', "ftp_ctrl zone=ftp:1m $range; ftp_client_mode on;",
    'invalid "ftp_client_mode" value "on"',
    'invalid value "on"');
control('mode twice', "ftp_client_mode any; ftp_client_mode any; "
    . "ftp_ctrl zone=ftp:1m $range;",
    '"ftp_client_mode" directive is duplicate');
control('server mode unknown',
    "ftp_ctrl zone=ftp:1m $range; ftp_server_mode any;",
    'invalid "ftp_server_mode" value "any"',
    'invalid value "any"');
control('server mode twice',
    "ftp_server_mode client; ftp_server_mode client; "
    . "ftp_ctrl zone=ftp:1m $range;",
    '"ftp_server_mode" directive is duplicate');
control('trust unknown', "ftp_pasv_trust anybody; ftp_ctrl zone=ftp:1m $range;",
    'invalid "ftp_pasv_trust" value "anybody"');
control('trust bad mask',
    "ftp_pasv_trust 10.0.0.0/33; ftp_ctrl zone=ftp:1m $range;",
    'invalid "ftp_pasv_trust" value "10.0.0.0/33"');
control('trust off and', "ftp_pasv_trust 10.0.0.0/8 off; "
    . "ftp_ctrl zone=ftp:1m $range;", 'invalid "ftp_pasv_trust" value "off"');
control('timeout no time', "ftp_data_timeout soon; ftp_ctrl zone=ftp:1m $range;",
    '"ftp_data_timeout" directive invalid value',
    'invalid "ftp_data_timeout" value "soon"');
wrong('timeout zero', <<"EOF", undef, '"ftp_data_timeout" must not be 0');
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; ftp_data_timeout 0; }
    server { listen $data; ftp_data zone=ftp; }
EOF

control('trust twice', "ftp_pasv_trust off; ftp_pasv_trust off; "
    . "ftp_ctrl zone=ftp:1m $range;", '"ftp_pasv_trust" directive is duplicate');
control('timeout twice', "ftp_data_timeout 1s; ftp_data_timeout 2s; "
    . "ftp_ctrl zone=ftp:1m $range;",
    '"ftp_data_timeout" directive is duplicate');

control('original_dst unknown',
    "ftp_original_dst maybe; ftp_ctrl zone=ftp:1m $range;",
    'invalid value "maybe" in "ftp_original_dst" directive');
control('original_dst by both names',
    "ftp_original_dst on; njtmesh_dest on; ftp_ctrl zone=ftp:1m $range;",
    '"njtmesh_dest" directive is duplicate');

# what is right

right('plain', <<"EOF");
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; ftp_data zone=ftp; }
EOF

right('data first', <<"EOF");
    server { listen $data; ftp_data zone=ftp; }
    server { listen $a; proxy_pass $c; ftp_ctrl zone=ftp:1m $range; }
EOF

right('one port', <<"EOF");
    server { listen 127.0.0.1:${\$t->port(10)}; ftp_data zone=ftp; }
    server { listen $a; proxy_pass $c; ftp_ctrl zone=ftp:1m min_port=${\$t->port(10)} max_port=${\$t->port(10)}; }
EOF

right('shared zone', <<"EOF");
    ftp_data_timeout 30s;
    ftp_data_peer any;
    ftp_pasv_trust 10.0.0.0/8 192.168.0.1 fd00::/8;
    server { listen $a; ftp_ctrl zone=ftp:1m $range proxy_ip=203.0.113.5; proxy_pass $c; ftp_pasv_trust off; }
    server { listen $b; ftp_ctrl zone=ftp $range proxy_ip=\$server_addr; proxy_pass $c; }
    server { listen ${\$t->port(3)}; ftp_ctrl zone=ftp; proxy_pass $c; ftp_data_timeout 1m; }
    server { listen 127.0.0.1:${\$t->range(10, 15)}; ftp_data zone=ftp; }
    server { listen 127.0.0.1:${\$t->range(16, 20)}; ftp_data zone=ftp; }
EOF

right('modes', <<"EOF");
    ftp_client_mode any;
    ftp_server_mode passive;
    server { listen $a; ftp_ctrl zone=ftp:1m $range server_ip=192.0.2.1; proxy_pass $c; }
    server { listen $b; ftp_ctrl zone=ftp server_ip=2001:db8::1; proxy_pass $c; ftp_client_mode passive; ftp_server_mode client; }
    server { listen 127.0.0.1:${\$t->port(3)}; ftp_ctrl zone=ftp server_ip=\$server_addr; proxy_pass $c; ftp_client_mode active; ftp_server_mode active; }
    server { listen $data; ftp_data zone=ftp; }
EOF

right('wildcard and IPv6', <<"EOF");
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server {
        listen ${\$t->range(10, 20)};
        listen [::]:${\$t->range(10, 20)};
        ftp_data zone=ftp;
    }
EOF

right('redirected range', <<"EOF");
    ftp_original_dst on;
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; ftp_original_dst off; }
    server { listen $b; ftp_data zone=ftp; }
EOF

right('redirected range, other name', <<"EOF");
    njtmesh_dest on;
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass \$ftp_original_dst; }
    server { listen $b; ftp_data zone=ftp; }
EOF

right('top port', <<"EOF");
    server { listen $a; ftp_ctrl zone=ftp:1m min_port=65535 max_port=65535; proxy_pass $c; }
    server { listen 127.0.0.1:65535; ftp_data zone=ftp; }
EOF

right('redirect feeds', <<"EOF");
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $b; ftp_data zone=ftp; ftp_original_dst on; }
EOF

# a port that nobody listens on

my ($passed, $said) = $t->check(<<"EOF");
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen 127.0.0.1:${\$t->range(10, 14)}; ftp_data zone=ftp; }
EOF

ok($passed, 'half a range');
like($said, qr/\[warn\] .*ports "${\$t->range(15, 20)}" of zone "ftp" have no "ftp_data" listener/,
    'half a range warns');

($passed, $said) = $t->check(<<"EOF");
    ftp_original_dst on;
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $b; ftp_data zone=ftp; njtmesh_dest off; }
EOF

like($said, qr/\[warn\] .*ports "${\$t->range(10, 20)}" of zone "ftp" have no "ftp_data" listener/,
    'no redirect for the data server');

($passed, $said) = $t->check(<<"EOF");
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data; ftp_data zone=two; }
    server { listen $b; ftp_ctrl zone=two:1m $range; proxy_pass $c; }
EOF

like($said, qr/\[warn\] .*ports "${\$t->range(10, 20)}" of zone "ftp" have no "ftp_data" listener/,
    'another zone listens');

$t->done;

# One line of a control server; the error stands on line 2 of the block.
sub control {
    my ($name, $directive, @texts) = @_;

    # a zone as a whole has no line of its own
    my $line = $directive =~ /^ftp_ctrl zone=ftp:1m;$/ ? undef : 2;

    wrong($name, <<"EOF", $line, @texts);
    server { listen $a; proxy_pass $c;
        $directive
    }
    server { listen $data; ftp_data zone=ftp; }
EOF
}

# The same for a data server, on line 3.
sub data {
    my ($name, $directive, @texts) = @_;

    my $line = $name eq 'return after' ? undef : 3;

    wrong("data: $name", <<"EOF", $line, @texts);
    server { listen $a; ftp_ctrl zone=ftp:1m $range; proxy_pass $c; }
    server { listen $data;
        $directive
    }
EOF
}

sub wrong {
    my ($name, $stream, $line, @texts) = @_;

    my ($passed, $said) = $t->check($stream);

    my $texts = join '|', map { ref $_ ? $_ : quotemeta } @texts;
    my $at = defined $line ? $t->stream_line($line) : '\d+';

    # what nginx itself finds at the end may have no line
    my $where = $texts =~ /unknown "nothing"/ ? '' : qr/ in \S+check\.conf:$at$/m;

    if ($passed) {
        fail($name);
        diag('nginx -t passed');
        return;
    }

    like($said, qr/^nginx: \[emerg\] (?:$texts).*?$where/m, $name);
}

sub right {
    my ($name, $stream) = @_;

    my ($passed, $said) = $t->check($stream);

    ok($passed && $said !~ /\[(?:warn|emerg|alert)/, $name) or diag($said);
}
