"""The real FTP servers: each writes its own configuration, and has a root and an address of its own."""

import os
import pathlib
import subprocess

import processes

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HERE = REPOSITORY / "t/peers"
PASSIVE_PORTS = 100  # each server's own range; a closed port may stay unusable for a minute
NOBODY, NOGROUP = 65534, 65534


class Server:
    name = None  # on the command line and in results
    package = None  # the Debian package unpacked for it; None: part of the installed ones
    user = "tester"
    password = "secret"
    lacks = frozenset()  # verbs of operations.py that it cannot do, each with its reason beside it
    tls = False  # it offers AUTH TLS

    def __init__(self, folder, address):
        """folder: its own, for root, configuration and logs; address: where it listens and what its 227 shows."""
        self.folder = folder
        self.address = address
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        self.root.chmod(0o755)  # vsftpd refuses a root that its anonymous user can write to
        self.log = folder / "output.log"
        self.process = None

    @property
    def ipv6(self):
        return ":" in self.address

    def start(self):
        for _ in range(5):
            self.port = processes.free_ports(PASSIVE_PORTS + 1)
            self.passive = range(self.port + 1, self.port + 1 + PASSIVE_PORTS)
            self.process = processes.start(self.command(), self.log, **self.options())
            if processes.greets(self.address, self.port, self.process):
                return
            processes.stop(self.process)
        raise processes.Failure(f"{self.name} does not start:\n{processes.tail(self.log)}")

    def command(self):
        raise NotImplementedError

    def options(self):
        """Further arguments of Popen."""
        return {"umask": 0o022, "env": {**os.environ, "LC_ALL": "C.UTF-8"}}

    def write(self, name, lines):
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def binary(self, path):
        return unpacked(self.package) / path


class Vsftpd(Server):
    """Anonymous with all rights: local users would need PAM and a system account."""

    name, package = "vsftpd", "vsftpd"
    user = "anonymous"
    lacks = frozenset({"mlsd"})  # knows no such command
    tls = True

    def command(self):
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        certificate = make_certificate(self.folder)
        family = ("listen=NO", "listen_ipv6=YES", f"listen_address6={self.address}")
        if not self.ipv6:
            family = ("listen=YES", "listen_ipv6=NO", f"listen_address={self.address}")
        lines = [
            *family,
            f"listen_port={self.port}",
            f"pasv_min_port={self.passive[0]}",
            f"pasv_max_port={self.passive[-1]}",
            "background=NO",
            "seccomp_sandbox=NO",
            "anonymous_enable=YES",
            "local_enable=NO",
            f"anon_root={self.root}",
            "ftp_username=daemon",  # as nobody's home folder does not exist
            "nopriv_user=nobody",
            f"secure_chroot_dir={empty}",
            "write_enable=YES",
            "anon_upload_enable=YES",
            "anon_mkdir_write_enable=YES",
            "anon_other_write_enable=YES",
            "anon_world_readable_only=NO",
            "anon_umask=022",
            "utf8_filesystem=YES",
            "ssl_enable=YES",
            "allow_anon_ssl=YES",
            "force_anon_logins_ssl=NO",
            "force_anon_data_ssl=NO",
            f"rsa_cert_file={certificate}",
            "xferlog_enable=YES",
            "log_ftp_protocol=YES",
            f"vsftpd_log_file={self.folder / 'vsftpd.log'}",
        ]
        return [self.binary("usr/sbin/vsftpd"), self.write("vsftpd.conf", lines)]


class Proftpd(Server):
    name, package = "proftpd", "proftpd"

    def command(self):
        users = self.write(
            "users", [f"{self.user}:{hashed(self.password)}:{NOBODY}:{NOGROUP}::{self.root}:/bin/false"]
        )
        users.chmod(0o600)
        lines = [
            "ServerType standalone",
            "DefaultServer on",
            f"DefaultAddress {self.address}",
            "SocketBindTight on",
            f"UseIPv6 {'on' if self.ipv6 else 'off'}",
            f"Port {self.port}",
            f"PassivePorts {self.passive[0]} {self.passive[-1]}",
            "User nobody",
            "Group nogroup",
            "AuthOrder mod_auth_file.c",
            f"AuthUserFile {users}",
            "AuthPAM off",
            "RequireValidShell off",
            "DefaultRoot ~",
            "AllowOverwrite on",
            "AllowStoreRestart on",
            "UseEncoding on",
            "UseReverseDNS off",
            "DelayEngine off",
            # The stock greeting shows the server's address.
            'ServerIdent on "ready"',
            "ScoreboardFile none",
            f"PidFile {self.folder / 'pid'}",
            f"SystemLog {self.folder / 'proftpd.log'}",
            "TransferLog none",
            "WtmpLog off",
        ]
        return [self.binary("usr/sbin/proftpd"), "--nodaemon", "--config", self.write("proftpd.conf", lines)]


class PureFtpd(Server):
    name, package = "pure-ftpd", "pure-ftpd"
    lacks = frozenset({"abort"})  # gives one reply to a transfer and its ABOR; Net::FTP waits for the second
    tls = True

    def command(self):
        users = self.folder / "users.pdb"
        if not users.exists():
            # Written by hand: pure-pw's own hash takes seconds at each login.
            fields = [self.user, hashed(self.password), str(NOBODY), str(NOGROUP), "", f"{self.root}/./", *[""] * 12]
            passwd = self.write("users", [":".join(fields)])
            tool([self.binary("usr/bin/pure-pw"), "mkdb", users, "-f", passwd])
        # -E no anonymous, -A chroot, -H no names, -Y 1 TLS for who wants it, -L listings without the usual limit.
        return [
            *(self.binary("usr/sbin/pure-ftpd"), "-E", "-A", "-H", "-Y", "1", "-L", "10000:5"),
            *("-l", f"puredb:{users}", "-S", f"{self.address},{self.port}", "-g", self.folder / "pid"),
            *("-p", f"{self.passive[0]}:{self.passive[-1]}", "-U", "022:022"),
            *("-O", f"clf:{self.folder / 'transfers.log'}"),
            *("-2", make_certificate(self.folder)),
        ]


class Pyftpdlib(Server):
    name = "pyftpdlib"

    def command(self):
        where = [self.address, str(self.port), str(self.passive[0]), str(self.passive[-1])]
        return ["/usr/bin/python3", HERE / "pyftpdlib_server.py", *where, self.root, self.user, self.password]

    def options(self):
        return {**super().options(), "user": NOBODY, "group": NOGROUP, "extra_groups": []}


ALL = {kind.name: kind for kind in (Vsftpd, Proftpd, PureFtpd, Pyftpdlib)}


def setup(command):
    """Runs a function of scripts/lib/setup.sh; returns the last line it prints."""
    script = f'. "{REPOSITORY}/scripts/lib/setup.sh"; {command}'
    result = subprocess.run(["bash", "-euc", script], stdout=subprocess.PIPE, text=True, timeout=600)
    if result.returncode:
        raise processes.Failure(f"set-up failed: {command}")
    return result.stdout.strip().split("\n")[-1]


_folders = {}


def unpacked(package):
    if package not in _folders:
        _folders[package] = pathlib.Path(setup(f"peer_server {package}"))
    return _folders[package]


def make_certificate(folder):
    path = folder / "certificate.pem"
    if not path.exists():
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        tool(request + ["-keyout", path, "-out", folder / "only-certificate.pem"])
        with open(path, "a") as both:
            both.write((folder / "only-certificate.pem").read_text())
        os.chmod(path, 0o600)
    return path


def hashed(password):
    return tool(["openssl", "passwd", "-5", password]).strip()


def tool(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    if result.returncode:
        raise processes.Failure(f"{command[0]} failed: {result.stderr or result.stdout}")
    return result.stdout
