#!/usr/bin/perl

# scripts/redirect: what it adds works, is replaced, shown, and removed without
# a trace, with nftables and with iptables; --dry-run prints just that.  And
# the ruleset and the unit in nginx-conf.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/../lib";
use Test::Nginx::FtpNet;

my $t = Test::Nginx::FtpNet->new;
my $script = $t->root . '/scripts/redirect';

my %server;
for my $family (4, 6) {
    $server{$family} = [map {
        $t->server(addr => $t->address($_, $family), port => 21)
    } qw(server second)];
}

$t->run(<<"EOF");
    server {
        listen 21;
        ftp_ctrl zone=ftp:1m min_port=20000 max_port=20099;
        proxy_pass ${\$server{4}[0]->at};
    }

    server {
        listen [::]:21;
        ftp_ctrl zone=ftp;
        proxy_pass ${\$server{6}[0]->at};
    }

    server {
        listen 2121;
        listen [::]:2121;
        ftp_original_dst on;
        ftp_ctrl zone=ftp;
        proxy_pass \$ftp_original_dst;
    }

    server {
        listen 10000-10001;
        listen [::]:10000-10001;
        ftp_original_dst on;
        ftp_data zone=ftp;
    }
EOF

my $path = $ENV{PATH};
my $nft = $t->command('sh', '-c', 'command -v nft');
chomp $nft;

# ---- arguments

for my $wrong (
    ['no command'],
    ['unknown command "what"', 'what'],
    ['"add" needs a range and a port', 'add'],
    ['"add" needs a range and a port', qw(add 1-2)],
    ['unexpected argument "4"', qw(add 1-2 3 4)],
    ['invalid "--family" value "5"', qw(add --family 5 1-2 3)],
    ['"--family" needs a value', qw(add 1-2 --family)],
    ['invalid "--transparent" value "21"', qw(add --transparent 21 1-2 3)],
    ['"--transparent" needs a value', qw(add 1-2 3 --transparent)],
    ['"add" has no option "--what"', qw(add --what 1-2 3)],
    ['"show" has no option "--dry-run"', qw(show --dry-run)],
    ['unexpected argument "1"', qw(show 1)],
    ['"remove" has no option "--tproxy"', qw(remove --tproxy)],
    ['unexpected argument "1"', qw(remove 1)])
{
    my ($why, @arg) = @$wrong;
    my ($status, $said) = $t->try($script, @arg);
    is($status, 2, "usage: @arg");
    like($said, qr/^redirect: \Q$why\E\nusage: redirect add /,
        "usage told: @arg");
}

for my $wrong (['2-1', 3, 'port range "2-1"'], ['0-1', 3, 'port "0"'],
    ['1-65536', 3, 'port "65536"'], ['1-2', 0, 'port "0"'],
    ['1-2-3', 3, 'port "2-3"'], ['1-', 3, 'port ""'],
    ['x', 3, 'port "x"'], ['1-2', 'ftp', 'port "ftp"'])
{
    my ($status, $said) = $t->try($script, 'add', @$wrong[0, 1]);
    is($status, 1, "invalid: @$wrong[0, 1]");
    is($said, "redirect: invalid $wrong->[2]\n", "told: @$wrong[0, 1]");
}

my ($status, $said) = $t->try($script,
    qw(add --transparent 21:0 20000-20099 10000));
is("$status $said", qq{1 redirect: invalid port "0"\n}, 'invalid: 21:0');

# without root only what is asked for is printed

for my $wrong ('show', 'remove') {
    ($status, $said) = $t->try(unprivileged($wrong));
    is($status, 1, "$wrong without root");
    like($said, qr/: "$wrong" needs root\n\z/, "$wrong told");
}

# ---- the tools

tool('nft');
script('nft');

# iptables where nft is missing: a folder with everything else

my $tools = $t->dir . '/tools';
mkdir $tools;

for my $tool (glob '/{usr/,}{sbin,bin}/*') {
    my ($name) = $tool =~ m{([^/]+)$};
    symlink $tool, "$tools/$name" if $name ne 'nft' && !-e "$tools/$name";
}

$ENV{PATH} = $tools;
tool('iptables');
script('iptables');

# what iptables once added goes when nft adds

my $clean = state();

$t->redirect(qw(add 20000-20099 10000));
isnt(state(), $clean, 'by iptables');
{
    local $ENV{PATH} = $path;

    $t->redirect(qw(add 20000-20099 10000));
    unlike($t->redirect('show'), qr/ip6?tables/, 'by nft alone');
    $t->redirect('remove');
}
is(state(), $clean, 'removed by nft');

# the older iptables, where this kernel has it

if (($t->try('iptables-legacy', '-t', 'mangle', '-S'))[0] == 0) {
    for my $tool (qw(iptables iptables-save iptables-restore)) {
        my $legacy = $tool =~ s/iptables/iptables-legacy/r;

        for ([$tool, $legacy], [map { s/^ip/ip6/r } $tool, $legacy]) {
            unlink "$tools/$_->[0]";
            symlink "/usr/sbin/$_->[1]", "$tools/$_->[0]";
        }
    }

    tool('iptables-legacy');

} else {
    note('no iptables-legacy here');
}

$ENV{PATH} = $path;

# nothing at all to work with

unlink glob "$tools/ip*tables*";
($status, $said) = $t->try('env', "PATH=$tools", $script,
    qw(add 20000-20099 10000));
is($status, 1, 'no tool');
is($said, "redirect: neither nft nor iptables is there\n", 'no tool told');

# ---- beside others

$t->nft(<<'EOF');
table inet other {
    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport 4 accept
    }
}
EOF

my $others = state();
$t->redirect(qw(add --tproxy 20000-20099 10000));
like(state(), qr/table inet other/, 'other tables stay');
$t->redirect('remove');
is(state(), $others, 'other tables are left');
$t->command(qw(nft delete table inet other));

# ---- the files in nginx-conf

my $before = state();

$t->redirect(qw(add 10000-29999 10000));
my $added = state();
$t->redirect('remove');

my $rules = $t->root . '/nginx-conf/ftp-redirect.nft';
my %unit;

open my $fh, '<', $t->root . '/nginx-conf/ftp-redirect.service'
    or die "no unit: $!\n";
while (my $line = <$fh>) {
    $unit{$1} = [split ' ', $2] if $line =~ /^(Exec\w+)=-?(.*)/;
}

for my $command (values %unit) {
    s{^/etc/nginx/ftp-redirect.nft$}{$rules} for @$command;
}

is(join(' ', sort keys %unit), 'ExecReload ExecStart ExecStop', 'unit');
$t->command(@{$unit{ExecStart}});
is(state(), $added, 'unit starts');
$t->command(@{$unit{ExecReload}});
is(state(), $added, 'unit reloads');
$t->command(@{$unit{ExecStop}});
is(state(), $before, 'unit stops');

$t->done;

# What each tool has to do, in both forms.
sub tool {
    my ($tool) = @_;

    my $clean = state();

    for my $form ([], ['--tproxy']) {
        my @add = ('add', @$form);
        my $name = join ' ', $tool, @$form;

        is($t->redirect(@add, '20000-20099', 10000), '', "$name is silent");
        my $added = state();
        isnt($added, $clean, "$name added");
        passive($name, $_) for 4, 6;

        my $shown = $t->redirect('show');
        like($shown, qr/20000[-:]20099.*10000/, "$name show");
        is($shown =~ /ip -4 rule.*ip -4 route.*ip -6 rule/s, !!@$form,
            "$name show routes");

        $t->redirect(@add, '20000-20099', 10000);
        is(state(), $added, "$name twice");

        $t->redirect('remove');
        is(state(), $clean, "$name removed");
    }

    return;
}

# What the script makes of a tool.
sub script {
    my ($tool) = @_;

    my $clean = state();

    my @shown = $t->try($script, 'show');
    is("@shown", "3 redirect: nothing is set\n", "$tool show nothing");
    is($t->redirect('remove'), '', "$tool remove nothing");
    is($t->redirect(qw(remove --dry-run)), '', "$tool remove nothing, dry");
    is(state(), $clean, "$tool nothing happened");

    # without root what is set cannot be seen, so it may be nothing

    my $blind = $t->command(unprivileged(qw(remove --dry-run)));
    like($blind, qr/^(?:if )?$tool /, "$tool remove without root");
    is($t->command('sh', '-c', $blind), '', "$tool remove nothing, blind");
    is(state(), $clean, "$tool nothing happened");

    for my $form ([], ['--tproxy']) {
        my @add = ('add', @$form);
        my $name = join ' ', $tool, @$form;

        # dry: nothing happens, and what is printed is what is done

        my $dry = $t->redirect(@add, '--dry-run', '20000-20099', 10000);
        is(state(), $clean, "$name dry run");
        like($dry, $tool eq 'nft' ? qr/^nft -f - <</m
            : qr/^iptables-restore .*^ip6tables-restore/ms, "$name printed");

        $t->redirect(@add, '20000-20099', 10000);
        my $added = state();

        my $dry_remove = $t->redirect(qw(remove --dry-run));
        is(state(), $added, "$name remove dry run");
        $t->command('sh', '-c', $dry_remove);
        is(state(), $clean, "$name printed commands remove");
        $t->command('sh', '-c', $dry);
        is(state(), $added, "$name printed commands add");

        # the same without root

        my $blind = $t->command(unprivileged(qw(remove --dry-run)));
        is(state(), $added, "$name remove dry run without root");
        is($t->command('sh', '-c', $blind), '', "$name all of it runs");
        is(state(), $clean, "$name printed without root, removes");
        $t->command('sh', '-c', $t->command(unprivileged(@add, '--dry-run',
            '20000-20099', 10000)));
        is(state(), $added, "$name printed without root, adds");

        # other values are in the place of those before

        $t->redirect(@add, '20000-20049', 10001);
        unlike(state(), qr/20099|\b10000\b/, "$name replaced");
        $t->redirect(@add, '20000-20099', 10001);
        passive("$name replaced", $_) for 4, 6;

        # one family

        for my $family (4, 6) {
            my $other = 10 - $family;

            $t->redirect(@add, '--family', $family, '20000-20099', 10000);
            passive("$name only", $family);
            ok(!eval {
                $t->connect(addr => $t->address('proxy', $other), port => 20050);
            }, "$name only IPv$family");
            unlike($t->redirect('show'), qr/ip -$other/, "$name routes");
        }

        # in the way

        $t->redirect(@add, qw(--transparent 21:2121 20000-20099 10000));

        for my $family (4, 6) {
            passive("$name transparent", $family);

            my ($c, $s) = $t->session($server{$family}[1],
                addr => $t->address('second', $family));
            is($s->peer_addr, $t->address('behind', $family),
                "$name transparent");
            is($t->both_ways($c, $s, 'EPSV'), '', "$name transparent data");
        }

        $t->redirect('remove');
    }

    # from one form to another nothing is left

    my @forms = map { [split] } '--client-address --family 4',
        '--transparent 21:2121', '--tproxy --family 6', '';
    my @states;

    for my $form (@forms) {
        $t->redirect('add', @$form, '20000-20099', 10000);
        push @states, state();
    }

    for my $form (@forms) {
        $t->redirect('remove');
        $t->redirect('add', @$form, '20000-20099', 10000);
        is(state(), shift @states, "$tool change to @$form");
    }

    # a single port

    $t->redirect(qw(add 20000 010000));
    like($t->redirect('show'), qr/dport 20000\b(?![-:])/, "$tool one port");
    $t->redirect('remove');
    is(state(), $clean, "$tool leaves nothing");

    return;
}

# The script as somebody else runs it, who need not be able to read it.
sub unprivileged {
    my (@arg) = @_;

    return ('sh', '-c', 'script=$1; shift; exec setpriv --reuid=65534 '
        . '--regid=65534 --clear-groups bash -s -- "$@" <"$script"',
        'sh', $script, @arg);
}

# All rules and routes of the proxy.
sub state {
    my $state = join "\n", grep { !/^table ip6? / }
        split /\n(?=table )/, "\n" . $t->command($nft, 'list', 'ruleset');

    # What iptables keeps, by chain.  Its own tables and their built-in chains
    # stay when they are empty, and count nothing.
    for my $save (map { glob "/usr/sbin/$_-save" }
        'ip{,6}tables-nft', 'ip{,6}tables-legacy')
    {
        my $table = '';
        my @lines;

        for (split /^/, $t->command($save)) {
            $table = $1 if /^\*(\S+)/;
            push @lines, "$save $table $_" if /^-A /;
            push @lines, "$save $table -N $1\n" if /^:(\S+) - /;
        }

        $state .= join '', sort {
            join(' ', (split ' ', $a)[1, 3]) cmp join(' ', (split ' ', $b)[1, 3])
        } @lines;
    }

    for my $family (4, 6) {
        $state .= $t->command('ip', "-$family", 'rule', 'show');
        $state .= $t->command('ip', "-$family", qw(route show table all));
    }

    # empty lines, and what the kernel learns by itself
    $state =~ s/^(?:.*\b(?:fe80|ff00|cache|expires)\b.*)?\n//mg;

    return $state;
}

sub passive {
    my ($name, $family) = @_;

    my ($c, $s) = $t->session($server{$family}[0],
        addr => $t->address('proxy', $family));
    is($t->both_ways($c, $s, 'EPSV'), '', "$name IPv$family works");
    $_->close for $c, $s;

    return;
}
