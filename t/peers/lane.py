"""A lane is an FTP server in one setting, an nginx of its own before it, and the logins that go there, one by one: what
the logs say between two of them is of one login. Lanes share nothing and run side by side."""

import re
import shutil
import time

import checks
import clients
import operations
import processes
from processes import Failure
from proxy import SERVER_NAME, VERSIONS, Proxy
from tap import Report, described

# No client connects to this address; servers announce it in every 227.
SERVER_ADDRESS = "127.0.0.50"
PROXY_HOST = {4: "127.0.0.1", 6: "::1"}
SERVER_HOST = {4: SERVER_ADDRESS, 6: "::1"}
HANGS = 3  # then the lane is given up: each costs a client's whole limit


class Certificates:
    def __init__(self, authority):
        self.authority = authority
        self.server = authority.issue(SERVER_NAME, SERVER_HOST.values())
        self.proxy = authority.issue("proxy.test", PROXY_HOST.values())


class Lane:
    def __init__(self, folder, logins, certificates, direct):
        """logins: of one server, setting and family; direct: without nginx."""
        first = logins[0]
        self.name = f"{first.kind.name} {first.setting.name} IPv{first.mode.server_family}"
        self.folder = folder / self.name.replace(" ", "-")
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.logins = logins
        self.authority = certificates.authority
        address = SERVER_HOST[first.mode.server_family]
        context = self.authority.context()
        self.server = first.kind(self.folder / "server", address, first.setting, certificates.server, context)
        self.proxy = None
        if not direct:
            ways = dict.fromkeys(map(self.way, logins))
            self.proxy = Proxy(self.folder / "nginx", ways, certificates.proxy, self.authority)

    def run(self, tap):
        """What goes wrong here is a case of the TAP, too."""
        report = Report()
        began = time.monotonic()
        try:
            self.run_logins(tap, report)
        except Exception as error:
            report.result(f"{self.name}: as a whole", described(error))
        finally:
            self.stop()
        report.note(f"{self.name}: {len(self.logins)} logins in {time.monotonic() - began:.1f} s")
        tap.add(report)

    def run_logins(self, tap, report):
        self.server.start()
        if self.proxy:
            self.proxy.start()
        hangs = 0
        for login in self.logins:
            cases, hung = self.run_login(login)
            tap.add(cases)
            hangs += hung and not cases.todo
            if hangs == HANGS:
                raise Failure(f"{HANGS} clients hung")
        if self.proxy:
            report.case(f"{self.name}: nginx ends cleanly", lambda: checks.ends_cleanly(self.proxy))

    def stop(self):
        for party in (self.proxy, self.server):
            if party and party.process:
                processes.stop(party.process)

    def way(self, login):
        """What decides which control server the login goes through, as Route wants it."""
        # Where AUTH is only wanted there is none.
        leg = login.leg if login.tls else "plain"
        version = login.version or VERSIONS[0]
        return self.server, leg, version, login.resumes == "all", login.mode.active, login.mode.toward

    def run_login(self, login):
        """Returns its report, and whether the client hung."""
        began = time.monotonic()
        client, mode, server = login.client, login.mode, self.server
        route = self.proxy.routes[self.way(login)] if self.proxy else server
        label = re.sub(r"\W+", "-", login.name)
        cell = operations.Cell(server.root / label, self.folder / "clients" / label)
        host = PROXY_HOST[mode.client_family] if self.proxy else server.address
        where = (host, route.port, server.user, server.password, mode.command, f"/{label}", cell.local)
        session = clients.Session(*where, login.leg, login.private, self.authority.file)
        halves = operations.prepare(cell, login.verbs, server.setting.slow)
        client_began = time.monotonic()
        status = client.run(session, cell.steps)
        client_took = time.monotonic() - client_began
        transcript = session.transcript.read_text(errors="surrogateescape")
        replies = client.replies(transcript)

        report = Report(login.known(direct=not self.proxy))
        report.case(f"{login.name}: one login", lambda: checks.logged_in_once(status, replies))
        for operation, half in halves.items():
            report.case(f"{login.name}: {operation}", lambda half=half: next(half, None))
        report.case(f"{login.name}: announced ports", lambda: announced(transcript, replies, mode, route))
        if self.proxy:
            self.check_proxy(report, login, transcript, replies, cell.steps)
        if report.failed:
            report.note(f"exit status {status}, transcript {session.transcript}, its end:")
            report.note(processes.tail(session.transcript))
        else:
            shutil.rmtree(cell.remote)
            shutil.rmtree(cell.local)
        report.note(f"{login.name}: {time.monotonic() - began:.1f} s, the client {client_took:.1f} s")
        return report, status is None

    def check_proxy(self, report, login, transcript, replies, steps):
        name, server = login.name, self.server
        logs = checks.Logs(self.proxy)
        report.case(f"{name}: server stays hidden", lambda: checks.hides(SERVER_ADDRESS, transcript))
        report.case(f"{name}: logs of nginx", lambda: checks.logged(logs, replies, login.mode, steps, server.user))
        report.case(f"{name}: mode toward the server", lambda: checks.reaches(logs, login.mode, server))
        control = login.version if login.tls else ""
        data = control if login.private else ""
        report.case(f"{name}: as protected as asked", lambda: checks.protected(logs, control, data))
        if data:
            report.case(f"{name}: sessions resumed: {login.resumes}", lambda: checks.resumed(logs, login.resumes))
        if login.client.clears:
            report.case(f"{name}: no CCC", lambda: checks.refuses_clear(replies))
        if login.leg == "wanted":
            report.case(f"{name}: no AUTH", lambda: checks.refuses_tls(transcript, replies))


def announced(transcript, replies, mode, announcer):
    if mode.active:
        checks.asks(transcript, replies, mode)
    else:
        checks.announces(replies, mode, announcer)
