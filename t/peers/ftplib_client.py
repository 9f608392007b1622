"""ftplib as a client: arguments are host, port, user, password, PASV, EPSV, PORT or EPRT, folder, leg (plain,
explicit or implicit), P or C, the authority's file, and perhaps "resume"; its steps are JSON on stdin."""

import ftplib
import json
import os
import socket
import ssl
import sys

host, port, user, password, mode, folder, leg, protection, authority, *how = sys.argv[1:]


class Modes:
    # Else ftplib connects to the control connection's address whatever the 227 says.
    trust_server_pasv_ipv4_address = True

    def makepasv(self):
        """ftplib itself uses EPSV over IPv6 only."""
        if mode == "PASV":
            return super().makepasv()
        return ftplib.parse229(self.sendcmd("EPSV"), self.sock.getpeername())

    def sendport(self, host, port):
        """The same with EPRT."""
        return super().sendport(host, port) if mode == "PORT" else self.sendeprt(host, port)


class Client(Modes, ftplib.FTP):
    pass


class TlsClient(Modes, ftplib.FTP_TLS):
    def connect(self, host, port):
        """ftplib itself knows no implicit TLS."""
        if leg == "explicit":
            return super().connect(host, port)
        self.host = host
        sock = socket.create_connection((host, port), self.timeout)
        self.sock = self.context.wrap_socket(sock, server_hostname=host)
        self.af = self.sock.family
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = self.getresp()
        return self.welcome

    def ntransfercmd(self, command, rest=None):
        """ftplib itself does not resume the control connection's session."""
        if "resume" not in how or protection == "C":
            return super().ntransfercmd(command, rest)
        data, size = ftplib.FTP.ntransfercmd(self, command, rest)
        return self.context.wrap_socket(data, server_hostname=self.host, session=self.sock.session), size


def lines_to(path, command):
    with open(path, "w", encoding="utf-8") as out:
        ftp.retrlines(command, lambda line: out.write(line + "\n"))


def fetch(remote, local):
    with open(local, "wb") as out:
        ftp.retrbinary(f"RETR {remote}", out.write)


def fetch_rest(remote, local):
    with open(local, "ab") as out:
        ftp.retrbinary(f"RETR {remote}", out.write, rest=out.tell())


def store(local, remote):
    with open(local, "rb") as source:
        ftp.storbinary(f"STOR {remote}", source)


def store_rest(local, remote, done):
    with open(local, "rb") as source:
        source.seek(int(done))
        ftp.storbinary(f"STOR {remote}", source, rest=done)


def append(local, remote):
    with open(local, "rb") as source:
        ftp.storbinary(f"APPE {remote}", source)


def break_off(remote, local):
    """Closes the data connection after the first bytes. Pure-FTPd writes 128 KiB at once and sends no reply at all to
    a download that ends within the first of them."""
    with ftp.transfercmd(f"RETR {remote}") as data, open(local, "wb") as out:
        while out.tell() <= 128 << 10 and (some := data.recv(1000)):
            out.write(some)
    try:
        ftp.voidresp()
    except ftplib.Error as error:
        print(f"broken off: {error}")


def missing(remote, local):
    try:
        fetch(remote, local)
    except ftplib.error_perm:
        os.unlink(local)
    else:
        sys.exit(f"{remote} should not be there")


def refused(local, remote):
    try:
        store(local, remote)
    except ftplib.error_perm as error:
        print(f"refused: {error}")
    else:
        sys.exit(f"{remote} should not be taken")


options = {"encoding": "utf-8", "timeout": 20}
if leg == "plain":
    ftp = Client(**options)
else:
    ftp = TlsClient(**options, context=ssl.create_default_context(cafile=authority))
ftp.set_debuglevel(1)
ftp.set_pasv(mode in ("PASV", "EPSV"))
VERBS = {
    "list": lambda directory, out: lines_to(out, f"LIST {directory}"),
    "nlst": lambda directory, out: lines_to(out, f"NLST {directory}"),
    "mlsd": lambda directory, out: lines_to(out, f"MLSD {directory}"),
    "get": fetch,
    "reget": fetch_rest,
    "put": store,
    "reput": store_rest,
    "append": append,
    "break": break_off,
    "missing": missing,
    "refused": refused,
    "rename": ftp.rename,
    "delete": ftp.delete,
    "mkdir": ftp.mkd,
    "rmdir": ftp.rmd,
}

ftp.connect(host, int(port))
ftp.login(user, password)
if leg != "plain" and protection == "P":
    ftp.prot_p()
elif leg == "implicit":
    ftp.voidcmd("PBSZ 0")
    ftp.prot_c()
ftp.cwd(folder)
for verb, *arguments in json.load(sys.stdin):
    VERBS[verb](*arguments)
ftp.quit()
