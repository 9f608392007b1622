"""What must be true of a whole login, beside its operations: from the client's transcript and from nginx's logs."""

import collections
import posixpath
import re

import clients
import operations
from processes import Failure
from proxy import grave

# For a step's verb: the commands that clients do it with, and which word of the step is the remote name.
NAMED_TRANSFERS = {
    "get": (("RETR",), 1),
    "reget": (("RETR",), 1),
    "put": (("STOR",), 2),
    "reput": (("STOR", "APPE"), 2),
    "append": (("APPE",), 2),
}


def logged_in_once(status, replies):
    if status is None:
        raise Failure(f"the client hung for {clients.LIMIT} s")
    if status != 0:
        raise Failure(f"the client's exit status is {status}")
    logins = sum(code == "230" for code, _ in replies)
    if logins != 1:
        raise Failure(f"{logins} logins instead of one")


def passive_replies(replies):
    """(code, address or None, port) of each 227 and 229."""
    found = []
    for code, text in replies:
        if code == "227" and (match := re.search(r"\((\d+,\d+,\d+,\d+),(\d+),(\d+)\)", text)):
            found.append((code, match[1].replace(",", "."), int(match[2]) * 256 + int(match[3])))
        elif code == "229" and (match := re.search(r"\(\|\|\|(\d+)\|\)", text)):
            found.append((code, None, int(match[1])))
        elif code in ("227", "229"):
            raise Failure(f"strange reply: {code} {text}")
    return found


def announces(replies, mode, announcer):
    """What the client saw is of the asked mode, and its address and ports are those of the one it connected to."""
    found = passive_replies(replies)
    wanted = "227" if mode.command == "PASV" else "229"
    if not found:
        raise Failure("no passive reply in the transcript")
    for code, address, port in found:
        if code != wanted or address not in (None, announcer.address) or port not in announcer.passive:
            raise Failure(f"a {code} announced {address} port {port}")


def asks(transcript, replies, mode):
    """The client has asked with the wanted command alone, each time for a port of its own address."""
    pattern = r"\bPORT (\d+,\d+,\d+,\d+),\d+,\d+|\bEPRT \|[12]\|([^|]+)\|\d+\|"
    matches = re.finditer(pattern, transcript)
    found = [(match[0].split()[0], (match[1] or match[2]).replace(",", ".")) for match in matches]
    wanted = (mode.command, LOOPBACK[mode.client_family])
    if set(found) != {wanted}:
        raise Failure(f"the client has asked with {set(found)} instead of {wanted}")
    if passive := passive_replies(replies):
        raise Failure(f"passive replies: {passive}")


def hides(address, transcript):
    for secret in (address, address.replace(".", ",")):
        if secret in transcript:
            raise Failure(f"the client has seen {secret}")


LOOPBACK = {4: "127.0.0.1", 6: "::1"}


class Logs:
    """What nginx has logged of a login that has ended."""

    def __init__(self, proxy):
        proxy.wait_for_control_end()
        proxy.wait_for_data_end()
        self.control = [line.split("|") for line in proxy.new_lines(proxy.control_log)]
        data = [line.split("|") for line in proxy.new_lines(proxy.data_log)]
        self.data = [line for line in data if line[3] != "handed over"]
        self.handed_over = [line for line in data if line[3] == "handed over"]
        lines = proxy.new_lines(proxy.error_log)
        self.errors = grave(lines)
        self.reserved = collections.Counter(
            int(match[1]) for line in lines if (match := re.search(r"ftp reserved port (\d+) ", line))
        )

    @property
    def complete(self):
        """The transfers as (version of TLS, "r" if it resumed a session) of each."""
        return [tuple(line[6:8]) for line in self.data if line[3] == "complete"]


def logged(logs, replies, mode, steps, user):
    """nginx says the same as the client: one control session, its data connections on announced ports, none amiss."""
    control, data = logs.control, logs.data
    if bad := logs.errors:
        raise Failure("\n".join(bad))
    if len(control) != 1 or control[0][1] != user:
        raise Failure(f"control sessions: {control}")
    # A connection that the client gave up after a 550 may be accepted when its reservation is gone.
    known = [line for line in data if line[3] != "refused"]
    if strange := [line for line in known if line[0] != control[0][0] or line[1] != mode.command]:
        raise Failure(f"data connections of another session or mode: {strange}")
    announced = collections.Counter(port for _, _, port in passive_replies(replies))
    if mode.active or mode.server_active:
        # What the server was told counts as well: a connection of it that met nobody has a line.
        announced = logs.reserved
    if unknown := collections.Counter(int(line[2]) for line in data) - announced:
        raise Failure(f"data connections on ports that were not announced: {dict(unknown)}")
    moved = {(line[4], posixpath.basename(line[5])) for line in data if line[3] == "complete"}
    for step in steps:
        commands, path = NAMED_TRANSFERS.get(step[0], ((), None))
        if commands and not any((command, step[path]) in moved for command in commands):
            raise Failure(f"no data connection of {commands[0]} {step[path]}")
    verbs = [verb for verb, *_ in steps]
    transfers = sum(verb in operations.TRANSFERS for verb in verbs)
    unfinished = sum(verb in operations.UNFINISHED for verb in verbs)
    if mode.server_active and not mode.active:
        unfinished *= 2  # both connect, and need not meet
    complete = sum(line[3] == "complete" for line in data)
    if complete < transfers or len(data) - complete > unfinished:
        raise Failure(f"{transfers} transfers, but {complete} of {len(data)} data connections are complete")


def reaches(logs, mode, server):
    """The server has been passive, or active, as the mode wants it."""
    for line in logs.data:
        if line[3] == "complete":
            address, _, port = line[8].rpartition(":")
            if address.strip("[]") != server.address or (int(port) in server.passive) == mode.server_active:
                raise Failure(f"a data connection of the server at {line[8]}")
    # Where both have connected each has a line.
    wanted = len(logs.complete) if mode.server_active and not mode.active else 0
    if len(logs.handed_over) < wanted or logs.handed_over and not wanted:
        raise Failure(f"{len(logs.handed_over)} connections were handed over, {wanted} transfers are complete")


def protected(logs, control, data):
    """The client's legs speak the asked version of TLS, or none where that is empty."""
    if (versions := {line[3] for line in logs.control}) != {control}:
        raise Failure(f"the control connection has TLS {versions} instead of {control!r}")
    if others := {version for version, _ in logs.complete} - {data}:
        raise Failure(f"data connections have TLS {others} instead of {data!r}")


def resumed(logs, which):
    """Which data connections resumed a session: all, none, or those on the port of an earlier one."""
    marks = "".join(mark for _, mark in logs.complete)
    if which == "same port":
        ports = [line[2] for line in logs.data]
        fresh = [line for at, line in enumerate(logs.data) if line[2] not in ports[:at]]
        right = all(line[7] != "r" for line in fresh)
    else:
        wanted = {"all": "r+", "none": r"\.+"}[which]
        right = re.fullmatch(wanted, marks)
    if not right:
        raise Failure(f"$ssl_session_reused of the data connections: {marks}")


def refuses_clear(replies):
    if not any(code == "534" for code, _ in replies):
        raise Failure("no 534")


def refuses_tls(transcript, replies):
    if re.search(r"(?m)^(<--- |< |(\S+ ){4}Response: )\s*AUTH\b", transcript):
        raise Failure("FEAT promises AUTH")
    if any(code == "234" for code, _ in replies):
        raise Failure("AUTH was accepted")


def ends_cleanly(proxy):
    proxy.stop()
    if bad := grave(proxy.new_lines(proxy.error_log)):
        raise Failure("\n".join(bad))
