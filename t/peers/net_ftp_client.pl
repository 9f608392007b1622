# Net::FTP as a client: arguments are host, port, user, password, PASV, EPSV, PORT or EPRT, folder, leg (plain,
# explicit or implicit), P or C, the authority's file; the steps come as JSON on stdin.
use strict;
use warnings;
use JSON::PP;

package Client;
use parent 'Net::FTP';
our $mode;

# Net::FTP itself uses EPSV and EPRT over IPv6 only.
sub pasv { my $ftp = shift; return $mode eq 'EPSV' ? $ftp->epsv : $ftp->SUPER::pasv(@_) }
sub port { my $ftp = shift; return $mode eq 'EPRT' ? $ftp->eprt(@_) : $ftp->SUPER::port(@_) }

package main;

my ($host, $port, $user, $password, $mode, $folder, $leg, $protection, $authority) = @ARGV;
$Client::mode = $mode;
$| = 1;

my $passive = $mode =~ /^(PASV|EPSV)$/ ? 1 : 0;
my @options = (Port => $port, Passive => $passive, Timeout => 10, Debug => 1, SSL_ca_file => $authority);
push @options, SSL => 1 if $leg eq 'implicit';
my $ftp = Client->new($host, @options) or die "connect: $@\n";
check('starttls', $ftp->starttls) if $leg eq 'explicit';
# By itself it is at P behind AUTH; in implicit TLS it takes that for granted and sends neither PBSZ nor PROT.
check('prot', $ftp->prot('C')) if $leg ne 'plain' && $protection eq 'C';
check('login', $ftp->login($user, $password));
check('cwd', $ftp->cwd($folder));
check('binary', $ftp->binary);

my %verbs = (
    list => sub { my ($dir, $out) = @_; my $lines = $ftp->dir($dir) or return; lines_to($out, @$lines) },
    nlst => sub { my ($dir, $out) = @_; my $lines = $ftp->ls($dir) or return; lines_to($out, @$lines) },
    get => sub { $ftp->get(@_) },
    reget => sub { my ($remote, $local) = @_; $ftp->get($remote, $local, -s $local) },
    put => sub { $ftp->put(@_) },
    reput => sub {
        my ($local, $remote, $done) = @_;
        open my $source, '<:raw', $local or return;
        seek $source, $done, 0;
        $ftp->restart($done);
        return $ftp->put($source, $remote);
    },
    append => sub { $ftp->append(@_) },
    missing => sub {
        my ($remote, $local) = @_;
        my $got = $ftp->get($remote, $local);
        unlink $local;
        return !$got && $ftp->code == 550;
    },
    refused => sub { return !$ftp->put(@_) && $ftp->code =~ /^55/ },
    # ABOR as RFC 959 wants it, with telnet's IAC IP and urgent data mark.
    abort => sub {
        my ($remote, $local) = @_;
        my $data = $ftp->retr($remote) or return;
        $data->read(my $bytes, 1000, 20) or return;
        $data->abort;
        open my $out, '>:raw', $local or return;
        return print {$out} $bytes;
    },
    rename => sub { $ftp->rename(@_) },
    delete => sub { $ftp->delete(@_) },
    mkdir => sub { $ftp->mkdir(@_) },
    rmdir => sub { $ftp->rmdir(@_) },
);

# Not decoded as UTF-8: names stay bytes, one for each character, as TLS counts them.
for my $step (@{ JSON::PP->new->decode(do { local $/; <STDIN> }) }) {
    my ($verb, @arguments) = @$step;
    utf8::downgrade($_) for @arguments;
    check("@$step", $verbs{$verb}->(@arguments));
}
$ftp->quit;

sub check {
    my ($what, $result) = @_;
    die "$what: ", $ftp->message, "\n" unless $result;
}

sub lines_to {
    my ($path, @lines) = @_;
    open my $out, '>:raw', $path or return;
    return print {$out} map {"$_\n"} @lines;
}
