"""The real FTP servers: each writes its own configuration, and has a root and an address of its own."""

import os
import pathlib
import subprocess
from collections import namedtuple

import processes
from processes import tool

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HERE = REPOSITORY / "t/peers"
PASSIVE_PORTS = 100  # each server's own range; a closed port may stay unusable for a minute
NOBODY, NOGROUP = 65534, 65534
SLOW = 16_000_000  # bytes each second that a slow server takes

# leg: how it is spoken to; requires: it refuses a login in clear; strict: it demands all it can of TLS, data
# connections in TLS that resume the control connection's session among it.
Setting = namedtuple("Setting", "name leg requires strict slow", defaults=(False,) * 3)
PLAIN = Setting("plain", "plain")
OFFERED = Setting("offered", "explicit")
EXPLICIT = Setting("explicit", "explicit", requires=True)
EXPLICIT_STRICT = Setting("explicit strict", "explicit", requires=True, strict=True)
EXPLICIT_SLOW = Setting("explicit slow", "explicit", requires=True, slow=True)
IMPLICIT = Setting("implicit", "implicit", requires=True)
IMPLICIT_STRICT = Setting("implicit strict", "implicit", requires=True, strict=True)
IMPLICIT_SLOW = Setting("implicit slow", "implicit", requires=True, slow=True)


class Server:
    name = None  # on the command line and in results
    package = None  # the Debian package unpacked for it; None: part of the installed ones
    user = "tester"
    password = "secret"
    lacks = frozenset()  # verbs of operations.py that it cannot do, each with its reason beside it
    settings = (PLAIN,)  # those it can have
    tls = False  # it offers AUTH TLS even as PLAIN
    demands_resumption = False  # it can, and does where it is strict
    ends_before_refusal = False  # it ends a data connection, and then refuses the transfer
    waits_for_command = False  # it resets data connections on which TLS begins before the transfer command

    def __init__(self, folder, address, setting, certificate, context):
        """folder: its own, for root, configuration and logs; address: where it listens and what its 227 shows;
        context: trusts its certificate."""
        self.folder = folder
        self.address = address
        self.setting = setting
        self.context = context if setting.leg == "implicit" else None
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        self.root.chmod(0o755)  # vsftpd refuses a root that its anonymous user can write to
        self.pem = folder / "certificate.pem"
        self.pem.write_text(certificate.key.read_text() + certificate.file.read_text())
        self.pem.chmod(0o600)
        self.log = folder / "output.log"
        self.process = None

    @property
    def ipv6(self):
        return ":" in self.address

    def start(self):
        for _ in range(5):
            # In active mode ProFTPD connects from the port before its own.
            self.port = processes.free_ports(PASSIVE_PORTS + 2) + 1
            self.passive = range(self.port + 1, self.port + 1 + PASSIVE_PORTS)
            self.process = processes.start(self.command(), self.log, **self.options())
            if processes.greets(self.address, self.port, self.process, self.context):
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
        return _folders[self.package] / path


class Vsftpd(Server):
    """Anonymous with all rights: local users would need PAM and a system account."""

    name, package = "vsftpd", "vsftpd"
    user = "anonymous"
    lacks = frozenset({"mlsd"})  # knows no such command
    settings = (PLAIN, EXPLICIT, EXPLICIT_STRICT, EXPLICIT_SLOW, IMPLICIT, IMPLICIT_STRICT, IMPLICIT_SLOW)
    tls = True
    demands_resumption = True

    def command(self):
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        yes = {True: "YES", False: "NO"}
        family = ("listen=NO", "listen_ipv6=YES", f"listen_address6={self.address}")
        if not self.ipv6:
            family = ("listen=YES", "listen_ipv6=NO", f"listen_address={self.address}")
        lines = [
            *family,
            f"listen_port={self.port}",
            f"pasv_min_port={self.passive[0]}",
            f"pasv_max_port={self.passive[-1]}",
            "connect_from_port_20=NO",
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
            f"implicit_ssl={yes[self.setting.leg == 'implicit']}",
            f"force_anon_logins_ssl={yes[self.setting.requires]}",
            f"force_anon_data_ssl={yes[self.setting.strict]}",
            f"require_ssl_reuse={yes[self.setting.strict]}",
            f"strict_ssl_read_eof={yes[self.setting.strict]}",
            f"anon_max_rate={SLOW if self.setting.slow else 0}",
            f"rsa_cert_file={self.pem}",
            "xferlog_enable=YES",
            "log_ftp_protocol=YES",
            f"vsftpd_log_file={self.folder / 'vsftpd.log'}",
        ]
        return [self.binary("usr/sbin/vsftpd"), self.write("vsftpd.conf", lines)]


class Proftpd(Server):
    name, package = "proftpd", "proftpd"
    settings = (PLAIN, EXPLICIT, EXPLICIT_STRICT, IMPLICIT, IMPLICIT_STRICT)
    demands_resumption = True
    ends_before_refusal = True

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
            *self.tls_lines(),
        ]
        return [self.binary("usr/sbin/proftpd"), "--nodaemon", "--config", self.write("proftpd.conf", lines)]

    def tls_lines(self):
        if self.setting.leg == "plain":
            return []
        options = []
        if self.setting.leg == "implicit":
            options.append("UseImplicitSSL")
        if not self.setting.strict:
            options.append("NoSessionReuseRequired")
        return [
            f"ModulePath {self.binary('usr/lib/proftpd')}",
            "LoadModule mod_tls.c",
            "TLSEngine on",
            f"TLSRequired {'on' if self.setting.strict else 'ctrl'}",
            f"TLSRSACertificateFile {self.pem}",
            f"TLSRSACertificateKeyFile {self.pem}",
            f"TLSLog {self.folder / 'tls.log'}",
            *([f"TLSOptions {' '.join(options)}"] if options else []),
        ]


class PureFtpd(Server):
    name, package = "pure-ftpd", "pure-ftpd"
    lacks = frozenset({"abort"})  # gives one reply to a transfer and its ABOR; Net::FTP waits for the second
    settings = (PLAIN, OFFERED, EXPLICIT, EXPLICIT_STRICT)
    tls = True

    def command(self):
        users = self.folder / "users.pdb"
        if not users.exists():
            # Written by hand: pure-pw's own hash takes seconds at each login.
            fields = [self.user, hashed(self.password), str(NOBODY), str(NOGROUP), "", f"{self.root}/./", *[""] * 12]
            passwd = self.write("users", [":".join(fields)])
            tool([self.binary("usr/bin/pure-pw"), "mkdb", users, "-f", passwd])
        # -E no anonymous, -A chroot, -H no names, -L listings without the usual limit; -Y 1 TLS for who wants it,
        # 2 for each login, 3 for data too.
        tls = 1 + self.setting.requires + self.setting.strict
        return [
            *(self.binary("usr/sbin/pure-ftpd"), "-E", "-A", "-H", "-Y", str(tls), "-L", "10000:5"),
            *("-l", f"puredb:{users}", "-S", f"{self.address},{self.port}", "-g", self.folder / "pid"),
            *("-p", f"{self.passive[0]}:{self.passive[-1]}", "-U", "022:022"),
            *("-O", f"clf:{self.folder / 'transfers.log'}"),
            *("-2", self.pem),
        ]


class Pyftpdlib(Server):
    name = "pyftpdlib"
    settings = (PLAIN, EXPLICIT, EXPLICIT_STRICT)
    ends_before_refusal = True  # where TLS begins, be it behind the command
    waits_for_command = True

    def command(self):
        where = [self.address, str(self.port), str(self.passive[0]), str(self.passive[-1])]
        os.chown(self.pem, NOBODY, NOGROUP)
        how = [self.setting.name, self.pem]
        # Read here, and begun elsewhere: its user may not get at a checkout in somebody's home.
        program = (HERE / "pyftpdlib_server.py").read_text()
        return ["/usr/bin/python3", "-c", program, *where, self.root, self.user, self.password, *how]

    def options(self):
        return {**super().options(), "user": NOBODY, "group": NOGROUP, "extra_groups": [], "cwd": self.root}


ALL = {kind.name: kind for kind in (Vsftpd, Proftpd, PureFtpd, Pyftpdlib)}


def setup(command):
    """Runs a function of scripts/lib/setup.sh; returns the last line it prints."""
    script = f'. "{REPOSITORY}/scripts/lib/setup.sh"; {command}'
    result = subprocess.run(["bash", "-euc", script], stdout=subprocess.PIPE, text=True, timeout=600)
    if result.returncode:
        raise processes.Failure(f"set-up failed: {command}")
    return result.stdout.strip().split("\n")[-1]


_folders = {}


def unpack(kinds):
    """Before the first of them starts."""
    for package in {kind.package for kind in kinds} - {None}:
        _folders[package] = pathlib.Path(setup(f"peer_server {package}"))


def hashed(password):
    return tool(["openssl", "passwd", "-5", password]).strip()
