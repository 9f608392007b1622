"""The real FTP clients: each translates the steps of operations.py into its own language and does them in one login."""

import json
import pathlib
import re
import urllib.parse

import filezilla
import processes

HERE = pathlib.Path(__file__).resolve().parent
LIMIT = 60  # seconds for one login with all its steps

EVERYTHING = frozenset(
    "list nlst mlsd get reget put reput append rename delete mkdir rmdir missing refused break abort".split()
)


class Session:
    """Where a client goes and how."""

    def __init__(self, host, port, user, password, mode, folder, local, leg, private, authority):
        """mode: PASV, EPSV, PORT or EPRT; folder: the absolute remote one; local: for scripts and transcript; leg: plain, wanted
        (AUTH first, in clear if that is refused), explicit or implicit; private: PROT P, not C; authority: file."""
        self.host, self.port, self.user, self.password = host, port, user, password
        self.mode, self.folder, self.local = mode, folder, local
        self.leg, self.private, self.authority = leg, private, authority
        self.transcript = local / "transcript"

    @property
    def passive(self):
        return self.mode in ("PASV", "EPSV")


class Client:
    name = None  # on the command line and in results
    lacks = frozenset()  # verbs it cannot do by design, each with its reason beside it
    lacks_in_tls = frozenset()  # those that it cannot do there
    legs = ("plain", "explicit", "implicit")  # how it can speak
    # By version of TLS, which data connections resume a session, as checks.resumed() says it; else none.
    resumes = {}
    resumes_active = None  # the same in active mode, where that is not the same
    spends_sessions = False  # of TLS 1.3: it uses each once, and needs another one for each data connection
    clears = False  # it asks for CCC after the login, and goes on in TLS when that is refused
    hurries = False  # it begins TLS on a data connection before it sends the transfer command
    assumes_private = False  # in implicit TLS it sends no PROT P
    accepts_tls = True  # in active mode it can begin TLS on data connections
    extends_port = (4, 6)  # the families over which it can use EPRT
    extends_passive = True  # it can use EPSV over IPv4
    sends_early = False  # its uploads do not wait for the reply to their command
    clears_data = True  # it can leave data in clear where the control connection has TLS
    packages = ()  # those that not every run needs
    sparing = False  # a login takes long: not with every server in every setting
    takes_end_for_refusal = False  # a data connection that ends during its TLS handshake is a failed PASV for it
    wants_global_ipv6 = False  # it uses no IPv6 where there is only ::1
    leaves_tickets = False  # of TLS 1.3: it reads nothing while it uploads and closes with them in its socket

    def verbs(self, leg):
        return EVERYTHING - self.lacks - (frozenset() if leg == "plain" else self.lacks_in_tls)

    def run(self, session, steps):
        """Returns the exit status, None if it hung; all that the client said is in session.transcript."""
        command, stdin = self.command(session, steps)
        environment = {"HOME": str(session.local), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        return processes.run(
            command, stdin.encode(), session.transcript, LIMIT, env=environment, cwd=session.local, umask=0o022
        )

    def command(self, session, steps):
        """Its command line and its standard input."""
        raise NotImplementedError

    def replies(self, transcript):
        """The server's replies that the client has shown, as (code, text) of each last line."""
        return re.findall(r"(?m)^(?:<--- |< |\*resp\* ['\"]|Client=[^<]*<<< )?(\d{3}) (.*)$", transcript)


class Lftp(Client):
    name = "lftp"
    lacks = frozenset(
        {
            "append",  # has no APPE command
            "missing",  # logs in anew when a server refuses its PRET
            "break",  # its script language cannot stop a transfer half-way
            "abort",
        }
    )
    legs = ("plain", "wanted", "explicit", "implicit")
    resumes = {"TLSv1.2": "all", "TLSv1.3": "all"}
    extends_port = ()  # over IPv6 it sends EPRT |2|::|, which means nobody
    wants_global_ipv6 = True
    leaves_tickets = True

    def command(self, session, steps):
        yes = {True: "yes", False: "no"}
        scheme = "ftps" if session.leg == "implicit" else "ftp"
        host = f"[{session.host}]" if ":" in session.host else session.host
        script = [
            "debug 9",
            "set cmd:fail-exit yes",
            "set net:timeout 10",
            "set net:max-retries 1",
            f"set ftp:passive-mode {yes[session.passive]}",
            f"set ftp:prefer-epsv {yes[session.mode == 'EPSV']}",
            f"set ftp:ssl-allow {yes[session.leg != 'plain']}",
            f"set ftp:ssl-allow-anonymous {yes[session.leg != 'plain']}",
            f"set ftp:ssl-force {yes[session.leg in ('explicit', 'implicit')]}",
            f"set ftp:ssl-protect-data {yes[session.private]}",
            f"set ftp:ssl-protect-list {yes[session.private]}",
            f"set ssl:ca-file {quoted(str(session.authority))}",
            "set ftp:fix-pasv-address no",  # else it connects to the control connection's address
            "set ftp:use-mlsd yes",
            "set ftp:use-stat no",
            "set xfer:clobber yes",
            f"open -u {session.user},{session.password} {scheme}://{host}:{session.port}",
            f"cd {quoted(session.folder)}",
        ]
        return ["lftp", "-f", "/dev/stdin"], "\n".join(script + [self.line(*step) for step in steps]) + "\n"

    def line(self, verb, *arguments):
        one, two = [quoted(argument) for argument in (*arguments, "")][:2]

        def dotted(name):
            """mv takes -- for a name."""
            return name.replace('"-', '"./-', 1)

        return {
            "list": f"ls {one} > {two}",
            "nlst": f"nlist {one} > {two}",
            "mlsd": f"cls -1 -B {one} > {two}",
            "get": f"get -e -- {one} -o {two}",
            "reget": f"get -c -- {one} -o {two}",
            "put": f"put -- {one} -o {two}",
            "reput": f"put -c -- {one} -o {two}",
            "refused": f"put -- {one} -o {two} || echo refused",
            "rename": f"mv {dotted(one)} {dotted(two)}",
            "delete": f"rm -- {one}",
            "mkdir": f"mkdir -- {one}",
            "rmdir": f"rmdir -- {one}",
        }[verb]


class Curl(Client):
    """One process; a block of its configuration file per step, all on one connection.

    Debian 12's curl now and then sleeps a second between a 227 or 229 and its connect, with any server and no proxy.
    """

    name = "curl"
    lacks = frozenset(
        {
            "break",  # stops a download only by closing the whole session
            "abort",
        }
    )
    legs = ("plain", "wanted", "explicit", "implicit")
    hurries = True
    takes_end_for_refusal = True
    # Having accepted one it may wait for the server's bytes before it begins TLS, with any server and no proxy.
    accepts_tls = False
    resumes = {"TLSv1.2": "all", "TLSv1.3": "all"}
    # OpenSSL does, and curl makes no copy.
    spends_sessions = True

    def command(self, session, steps):
        blocks = [self.block(session, *step) for step in steps]
        return ["curl", "--verbose", "--config", "-"], "\nnext\n".join(blocks) + "\n"

    def block(self, session, verb, *arguments):
        one, two = (*arguments, "")[:2]
        options = {
            "user": f"{session.user}:{session.password}",
            "max-time": "30",
        }
        flags = ["silent", "show-error", "no-ftp-skip-pasv-ip"]
        if session.mode == "PASV":
            flags.append("disable-epsv")
        if session.mode == "PORT":
            flags.append("disable-eprt")
        if not session.passive:
            options["ftp-port"] = "-"
        if session.leg == "wanted":
            flags.append("ssl")
        elif session.leg != "plain":
            flags.append("ssl-reqd" if session.private else "ftp-ssl-control")
        if self.clears:
            flags.append("ftp-ssl-ccc")
        options["cacert"] = str(session.authority)
        quotes = {
            "rename": [f"RNFR {session.folder}/{one}", f"RNTO {session.folder}/{two}"],
            "delete": [f"DELE {session.folder}/{one}"],
            "mkdir": [f"MKD {session.folder}/{one}"],
            "rmdir": [f"RMD {session.folder}/{one}"],
        }.get(verb, [])
        name = ""
        if quotes:
            flags.append("head")  # no transfer
        elif verb in ("list", "nlst", "mlsd"):
            name, options["output"] = f"{one}/", two
            if verb == "nlst":
                flags.append("list-only")
            if verb == "mlsd":
                options["request"] = "MLSD"
        elif verb in ("get", "reget", "missing"):
            name, options["output"] = one, two
        else:
            name, options["upload-file"] = two, one
        if verb in ("reget", "reput"):
            options["continue-at"] = "-"
        if verb == "append":
            flags.append("append")
        host = f"[{session.host}]" if ":" in session.host else session.host
        path = urllib.parse.quote(f"{session.folder}/{name}".lstrip("/"))
        scheme = "ftps" if session.leg == "implicit" else "ftp"
        lines = [f"url = {quoted(f'{scheme}://{host}:{session.port}/{path}')}", *flags]
        lines += [f"{key} = {quoted(value)}" for key, value in options.items()]
        lines += [f"quote = {quoted(quote)}" for quote in quotes]
        return "\n".join(lines)


class ClearingCurl(Curl):
    name = "curl-ccc"
    legs = ("explicit", "implicit")
    clears = True


class Tnftp(Client):
    name = "tnftp"
    legs = ("plain",)  # knows no TLS
    lacks = frozenset(
        {
            "break",  # stops a transfer half-way only at an interrupt from a terminal
            "abort",
        }
    )

    def command(self, session, steps):
        script = [
            f"epsv {'on' if session.mode in ('EPSV', 'EPRT') else 'off'}",
            f"open {session.host} {session.port}",
            f"user {session.user} {session.password}",
            "binary",
            f"cd {self.escaped(session.folder)}",
            *(line for step in steps for line in self.lines(session, *step)),
            "bye",
        ]
        # -d, as else it does not show its commands.
        return ["tnftp", "-n", "-i", "-v", "-d", "-p" if session.passive else "-A"], "\n".join(script) + "\n"

    @staticmethod
    def escaped(text):
        """A backslash is no escape inside quotes."""
        return re.sub(r"([^\w/.-])", r"\\\1", text)

    def lines(self, session, verb, *arguments):
        one, two = [self.escaped(argument) for argument in (*arguments, "")][:2]
        if verb == "reput":
            return [f"restart {arguments[2]}", f"put {one} {two}"]
        return [
            {
                "list": f"ls {one} {two}",
                "nlst": f"nlist {one} {two}",
                "mlsd": f"mlsd {one}",
                "get": f"get {one} {two}",
                "reget": f"reget {one} {two}",
                "missing": f"get {one} {two}",
                "put": f"put {one} {two}",
                "refused": f"put {one} {two}",
                "append": f"append {one} {two}",
                "rename": f"rename {one} {two}",
                "delete": f"delete {one}",
                "mkdir": f"mkdir {one}",
                "rmdir": f"rmdir {one}",
            }[verb]
        ]


class Ftplib(Client):
    name = "ftplib"
    lacks = frozenset(
        {
            "abort",  # the line feed of its ABOR is urgent data: vsftpd and ProFTPD wait for it for ever
        }
    )

    def command(self, session, steps):
        how = ["resume"] if self.resumes else []
        return ["/usr/bin/python3", HERE / "ftplib_client.py", *arguments(session), *how], json.dumps(steps)


class ResumingFtplib(Ftplib):
    """With the few lines that programs add to it for servers that insist."""

    name = "ftplib-resuming"
    legs = ("explicit", "implicit")
    resumes = {"TLSv1.2": "all", "TLSv1.3": "all"}


class NetFtp(Client):
    name = "Net::FTP"
    lacks = frozenset(
        {
            "mlsd",  # has no such method
            "break",  # always sends ABOR
        }
    )
    lacks_in_tls = frozenset({"abort"})  # its IAC IP goes in clear between the records
    # It keeps sessions by the address and port that it has connected to.
    resumes = {"TLSv1.2": "same port"}
    resumes_active = {"TLSv1.2": "all", "TLSv1.3": "all"}
    assumes_private = True
    leaves_tickets = True

    def command(self, session, steps):
        return ["/usr/bin/perl", HERE / "net_ftp_client.pl", *arguments(session)], json.dumps(steps, ensure_ascii=False)


class FileZilla(Client):
    """Its listings are for its own eyes, of the folders it moves files from and to."""

    name = "filezilla"
    packages = ("filezilla", "xvfb", "xdotool")
    # Of what it can do, only the transfers can be had without its windows.
    lacks = EVERYTHING - {"get", "put", "reget", "reput", "missing"}
    legs = ("plain", "wanted", "explicit", "implicit")
    resumes = {"TLSv1.2": "all", "TLSv1.3": "all"}
    extends_port = (6,)
    extends_passive = False
    sends_early = True
    clears_data = False
    sparing = True

    def run(self, session, steps):
        return filezilla.run(session, steps, LIMIT, {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})

    def replies(self, transcript):
        return re.findall(r"(?m)^(?:\S+ ){4}Response: (\d{3}) (.*)$", transcript)


def quoted(text):
    """As lftp and curl's configuration file want it."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def arguments(session):
    where = [session.host, str(session.port), session.user, session.password, session.mode, session.folder]
    return [*where, session.leg, "P" if session.private else "C", session.authority]


ALL = {kind.name: kind for kind in (Lftp, Curl, ClearingCurl, Tnftp, Ftplib, ResumingFtplib, NetFtp, FileZilla)}
