"""Which logins are done: each is a client, a server in one of its settings, and how the two speak."""

import itertools
from collections import namedtuple

import clients
import servers
from proxy import VERSIONS



class Mode(namedtuple("Mode", "name command client_family server_family toward", defaults=("client",))):
    """command: the client's; toward: what the proxy's ftp_server_mode says."""

    @property
    def active(self):
        return self.command in ("PORT", "EPRT")

    @property
    def server_active(self):
        return self.active if self.toward == "client" else self.toward == "active"


MODES = (
    Mode("PASV", "PASV", 4, 4),
    Mode("EPSV", "EPSV", 4, 4),
    Mode("EPSV over IPv6", "EPSV", 6, 6),
    Mode("EPSV from IPv6 to IPv4", "EPSV", 6, 4),
    Mode("EPSV from IPv4 to IPv6", "EPSV", 4, 6),
)
ACTIVE_MODES = (
    Mode("PORT", "PORT", 4, 4),
    Mode("EPRT", "EPRT", 4, 4),
    Mode("PORT to passive", "PORT", 4, 4, "passive"),
    Mode("EPRT to passive", "EPRT", 4, 4, "passive"),
    Mode("PASV to active", "PASV", 4, 4, "active"),
    Mode("EPSV to active", "EPSV", 4, 4, "active"),
    Mode("EPRT over IPv6", "EPRT", 6, 6),
    Mode("EPRT from IPv6 to IPv4", "EPRT", 6, 4),
    Mode("PORT from IPv4 to IPv6", "PORT", 4, 6),
    Mode("EPRT from IPv6 to passive IPv4", "EPRT", 6, 4, "passive"),
    Mode("PORT from IPv4 to passive IPv6", "PORT", 4, 6, "passive"),
    Mode("EPSV from IPv6 to active IPv4", "EPSV", 6, 4, "active"),
    Mode("PASV from IPv4 to active IPv6", "PASV", 4, 6, "active"),
)
# With TLS on a leg both versions of it have their turn.
TLS_MODES = tuple(zip(MODES[:2], VERSIONS))
ACTIVE_TLS_MODES = tuple(zip((ACTIVE_MODES[0], ACTIVE_MODES[2], ACTIVE_MODES[4]), itertools.cycle(VERSIONS)))

# Each client once and each server once; those that try AUTH with servers that offer it.
SMOKE = (
    ("lftp", "vsftpd"),
    ("curl", "pure-ftpd"),
    ("tnftp", "proftpd"),
    ("ftplib", "pyftpdlib"),
    ("Net::FTP", "proftpd"),
)
# Each pair of legs with TLS, each client, each server in its strictest settings: client, leg, PROT, server, setting.
TLS_SMOKE = (
    ("tnftp", "plain", "C", "proftpd", servers.EXPLICIT_STRICT),
    ("ftplib", "plain", "C", "vsftpd", servers.IMPLICIT_STRICT),
    ("curl", "explicit", "P", "pyftpdlib", servers.PLAIN),
    ("curl", "implicit", "P", "pyftpdlib", servers.EXPLICIT_STRICT),
    ("lftp", "explicit", "P", "vsftpd", servers.EXPLICIT_STRICT),
    ("Net::FTP", "explicit", "P", "proftpd", servers.IMPLICIT_STRICT),
    ("ftplib", "explicit", "C", "vsftpd", servers.EXPLICIT),
    ("Net::FTP", "implicit", "P", "proftpd", servers.PLAIN),
    ("lftp", "implicit", "P", "pure-ftpd", servers.EXPLICIT_STRICT),
    ("ftplib-resuming", "implicit", "P", "vsftpd", servers.IMPLICIT_STRICT),
    ("curl", "explicit", "P", "vsftpd", servers.IMPLICIT_SLOW),
)

# The same for active mode, on either half or both: client, leg, PROT, server, setting, mode, version of TLS.
ACTIVE_SMOKE = (
    ("lftp", "plain", "C", "vsftpd", servers.PLAIN, "PORT", None),
    ("curl", "plain", "C", "pure-ftpd", servers.PLAIN, "EPRT to passive", None),
    ("tnftp", "plain", "C", "proftpd", servers.PLAIN, "EPRT", None),
    ("ftplib", "plain", "C", "pyftpdlib", servers.PLAIN, "EPSV to active", None),
    ("Net::FTP", "plain", "C", "proftpd", servers.PLAIN, "PORT from IPv4 to passive IPv6", None),
    ("lftp", "explicit", "P", "proftpd", servers.EXPLICIT_STRICT, "PORT", "TLSv1.3"),
    ("curl", "explicit", "C", "vsftpd", servers.EXPLICIT, "PORT", "TLSv1.2"),
    ("ftplib", "implicit", "P", "pure-ftpd", servers.EXPLICIT_STRICT, "PASV to active", "TLSv1.2"),
)


class Login(namedtuple("Login", "client kind setting mode leg private version")):
    """leg: the client's; private: its data connections are; version: of TLS, where a leg has it and nginx chooses."""

    @property
    def tls(self):
        return self.leg in ("explicit", "implicit")

    @property
    def resumes(self):
        """Which data connections resume a session, as checks.resumed() says it."""
        resumes = self.client.resumes
        if self.mode.active and self.client.resumes_active:
            resumes = self.client.resumes_active
        return resumes.get(self.version, "none") if self.private else "none"

    @property
    def verbs(self):
        """What client and server can do together."""
        verbs = self.client.verbs(self.leg) - self.kind.lacks
        if self.private and self.client.takes_end_for_refusal and self.kind.ends_before_refusal:
            verbs -= {"refused"}
        return verbs

    def known(self, direct):
        """Why the client fails with this server though the proxy is right or none is there (direct), or None."""
        if self.client.sends_early and self.kind.waits_for_command and self.setting.leg == "plain":
            return "the server resets a data connection on which bytes come before the transfer command"
        early = self.client.hurries and self.kind.waits_for_command
        if direct and early and self.private and not self.mode.active:
            return "the server resets a data connection on which TLS begins before the transfer command"
        if not direct or not self.private:
            return None
        # Both have TLS 1.3 then.
        resumes = self.client.resumes.get("TLSv1.3") == "all" and not self.client.spends_sessions
        if self.setting.strict and self.kind.demands_resumption and not resumes:
            return "the server wants every data connection to resume, this client does not do that"
        if self.leg == "implicit" and self.client.assumes_private:
            return "the client sends no PROT P in implicit TLS, which the server takes for C"
        if self.client.leaves_tickets:
            return "the client closes uploads with the server's tickets unread, which resets them"
        return None

    @property
    def name(self):
        client, server = self.client.name, self.kind.name
        if self.tls:
            client += f" {self.leg} {'P' if self.private else 'C'}"
        if self.setting != servers.PLAIN:
            server += f" {self.setting.name}"
        parts = [client, server, self.mode.name, "AUTH wanted" if self.leg == "wanted" else self.version]
        return ", ".join(part for part in parts if part)


def chosen(options):
    everything = options.full or options.server or options.client
    plain = plain_logins(itertools.product(clients.ALL, servers.ALL) if everything else SMOKE, options)
    tls = all_tls_logins() if everything else smoke_tls_logins()
    active = all_active_logins() if everything else smoke_active_logins()
    logins = [*plain, *tls, *active]
    logins = [login for login in logins if not login.client.sparing or is_telling(login)]
    if options.direct:
        logins = without_proxy(logins)
    return [
        login
        for login in logins
        if options.client in (None, login.client.name)
        and options.server in (None, login.kind.name)
        and options.login in login.name
    ]


def is_telling(login):
    """For clients that take long: passive mode with what is easiest and strictest of each server, active with one."""
    active = login.mode.active or login.mode.server_active
    return (login.setting == servers.PLAIN or login.setting.strict) and (not active or login.kind is servers.Vsftpd)


def plain_logins(pairs, options):
    modes = MODES if options.full else MODES[:2]
    for name, server in pairs:
        client, kind = clients.ALL[name](), servers.ALL[server]
        if "plain" in client.legs:
            able = (mode for mode in modes if can(client, mode))
            yield from (Login(client, kind, servers.PLAIN, mode, "plain", False, None) for mode in able)
        if "wanted" in client.legs and kind.tls:
            yield Login(client, kind, servers.PLAIN, MODES[0], "wanted", False, None)


def all_tls_logins():
    for client, kind in itertools.product(clients.ALL.values(), servers.ALL.values()):
        for setting, leg, private in itertools.product(kind.settings, client.legs, (False, True)):
            # A client in clear says no PROT; who demands TLS for data refuses C; wanted TLS is no TLS.
            senseless = leg == "wanted" or private and leg == "plain" or leg == setting.leg == "plain"
            clear = leg != "plain" and not private
            if clear and (setting.strict or setting.slow or not client.clears_data):
                continue
            if not senseless:
                for mode, version in TLS_MODES[:1] if setting.slow else TLS_MODES:
                    mode = mode if can(client, mode) else MODES[0]
                    yield Login(client(), kind, setting, mode, leg, private, version)


def smoke_tls_logins():
    """The modes and versions take turns."""
    for (name, leg, protection, server, setting), (mode, version) in zip(TLS_SMOKE, itertools.cycle(TLS_MODES)):
        yield Login(clients.ALL[name](), servers.ALL[server], setting, mode, leg, protection == "P", version)


def all_active_logins():
    """With TLS only what is protected as far as it goes, from the clients that are there for active mode."""
    for client, kind in itertools.product(clients.ALL.values(), servers.ALL.values()):
        if client.clears:
            continue
        for mode in ACTIVE_MODES:
            if "plain" in client.legs and can(client, mode):
                yield Login(client(), kind, servers.PLAIN, mode, "plain", False, None)
        for setting, leg in itertools.product(kind.settings, client.legs):
            if setting.slow or leg == "wanted" or leg == setting.leg == "plain":
                continue
            for mode, version in ACTIVE_TLS_MODES:
                if not can(client, mode):
                    continue
                private = leg != "plain" and (client.accepts_tls or not mode.active)
                if leg != "plain" and not private and setting.strict:
                    continue  # the server takes no data in clear
                login = Login(client(), kind, setting, mode, leg, private, version)
                # What is known to fail is a minute's wait with most clients.
                if not login.known(direct=False) or client is clients.Ftplib:
                    yield login


def can(client, mode):
    if mode.command == "EPRT":
        return mode.client_family in client.extends_port
    return mode.command != "EPSV" or mode.client_family == 6 or client.extends_passive


def smoke_active_logins():
    modes = {mode.name: mode for mode in ACTIVE_MODES}
    for name, leg, protection, server, setting, mode, version in ACTIVE_SMOKE:
        yield Login(clients.ALL[name](), servers.ALL[server], setting, modes[mode], leg, protection == "P", version)


def without_proxy(logins):
    """Nothing stands between that changes the mode, the family, the leg or the version."""
    direct = {}
    for login in logins:
        same = login.mode.client_family == login.mode.server_family
        if same and login.leg == login.setting.leg and login.mode.toward == "client":
            login = login._replace(version=None)
            direct[login.name] = login
    return direct.values()
