"""FileZilla has no command line for transfers: it reads its queue and its settings from files, a key begins the queue,
and at the queue's end it closes itself. A question that it asks in a window nobody answers: then it hangs."""

import os
import sqlite3
import ssl
import subprocess
import time
from xml.sax.saxutils import escape

import processes
from processes import Failure

START_LIMIT = 40  # seconds until it has begun with its queue
KEY_LIMIT = 10  # seconds until a key shows its effect; pressed again it would stop the queue

# FileZilla's own numbers.
PROTOCOLS = {"plain": 6, "wanted": 0, "explicit": 4, "implicit": 3}
WITH_PASSWORD = 1  # kind of login
DOWNLOAD = 16  # among a file's flags; an upload has none
OVERWRITE, RESUME = 1, 5  # what happens to a file that is there
CLOSE = 3  # at the end of the queue
ONE_SERVER = 1  # id

# The tables of its queue, as version 3.63 makes them.
TABLES = """
PRAGMA user_version = 7;
CREATE TABLE servers (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, host TEXT NOT NULL, port INTEGER, user TEXT,
    password TEXT, account TEXT, keyfile TEXT, protocol INTEGER, type INTEGER, logontype INTEGER, timezone_offset INTEGER,
    transfer_mode TEXT, max_connections INTEGER, encoding TEXT, bypass_proxy INTEGER, post_login_commands TEXT, name TEXT,
    parameters TEXT, site_path TEXT DEFAULT NULL);
CREATE TABLE files (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, server INTEGER NOT NULL, source_file TEXT,
    target_file TEXT, local_path INTEGER, remote_path INTEGER, size INTEGER, error_count INTEGER, priority INTEGER,
    flags INTEGER, default_exists_action INTEGER, extra_flags TEXT);
CREATE TABLE local_paths (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT NOT NULL);
CREATE TABLE remote_paths (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT NOT NULL);
"""


class Display:
    """A screen that nobody sees, for one login: a key goes to the window that is there."""

    def __enter__(self):
        answer, said = os.pipe()
        # It chooses a free number itself; it would begin anew behind each client, xdotool among them.
        options = ("-noreset", "-screen", "0", "1280x900x24", "-nolisten", "tcp")
        self.process = processes.start(["Xvfb", "-displayfd", str(said), *options], os.devnull, pass_fds=(said,))
        os.close(said)
        with open(answer) as number:
            self.name = f":{number.readline().strip()}"
        if self.name == ":":
            raise Failure("Xvfb does not start")
        return self.name

    def __exit__(self, *_):
        processes.stop(self.process)


def run(session, steps, limit, environment):
    """Returns its exit status, None if it hung."""
    prepare(session, steps)
    session.transcript.touch()
    with Display() as display:
        environment = {**environment, "HOME": str(session.local), "DISPLAY": display}
        where = {"cwd": session.local, "env": environment, "umask": 0o022}
        process = processes.start(["filezilla"], session.local / "output", **where)
        try:
            begin(process, session.transcript, environment)
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            processes.stop(process)


def prepare(session, steps):
    """Writes what FileZilla reads when it starts."""
    folder = session.local / ".config/filezilla"
    folder.mkdir(parents=True)
    settings = {
        "Update Check": 0,
        "Greeting version": "99.0.0",  # has been shown
        "Logging file": session.transcript,
        "Logging filesize limit": 0,
        "Use Pasv mode": int(session.passive),
        "Allow transfermode fallback": 0,
        "Number of Transfers": 1,  # one login
        "Reconnect count": 0,
        "Timeout": 20,
        "Ascii Binary mode": 2,  # always binary
        "Queue completion action": CLOSE,
    }
    lines = "".join(f'<Setting name="{name}">{escape(str(value))}</Setting>' for name, value in settings.items())
    write(folder / "filezilla.xml", f"<Settings>{lines}</Settings>")
    write(folder / "trustedcerts.xml", trust(session))
    with sqlite3.connect(folder / "queue.sqlite3") as queue:
        queue.executescript(TABLES)
        fill(queue, session, steps)
    queue.close()


def write(path, content):
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<FileZilla3>{content}</FileZilla3>\n')


def trust(session):
    """What a user has agreed to when FileZilla asked: a login in clear, or the certificate; that sessions are not
    resumed is not among it."""
    if session.leg in ("plain", "wanted"):
        return f'<InsecureHosts><Host Port="{session.port}">{session.host}</Host></InsecureHosts>'
    certificates = []
    for path in session.authority.parent.glob("*.test.crt"):
        data = ssl.PEM_cert_to_DER_cert(path.read_text()).hex()
        times = f"<ActivationTime>{int(time.time()) - 86400}</ActivationTime>"
        times += f"<ExpirationTime>{int(time.time()) + 86400}</ExpirationTime>"
        where = f"<Host>{session.host}</Host><Port>{session.port}</Port>"
        certificates.append(f"<Certificate><Data>{data}</Data>{times}{where}</Certificate>")
    return f"<TrustedCerts>{''.join(certificates)}</TrustedCerts>"


def fill(queue, session, steps):
    server = {
        "id": ONE_SERVER,
        "host": session.host,
        "port": session.port,
        "user": session.user,
        "password": session.password,
        "protocol": PROTOCOLS[session.leg],
        "type": 0,
        "logontype": WITH_PASSWORD,
        "timezone_offset": 0,
        "transfer_mode": "default",
        "max_connections": 1,
        "encoding": "UTF-8",
        "bypass_proxy": 0,
        "name": "",
    }
    insert(queue, "servers", server)
    paths = {"local_paths": {}, "remote_paths": {}}

    def path_id(table, path):
        if path not in paths[table]:
            paths[table][path] = insert(queue, table, {"path": path})
        return paths[table][path]

    for verb, one, two, *_ in steps:
        down = verb in ("get", "reget", "missing")
        remote, local = (one, two) if down else (two, one)
        folder, _, name = f"{session.folder}/{remote}".rpartition("/")
        local_folder, _, local_name = local.rpartition("/")
        file = {
            "server": ONE_SERVER,
            "source_file": name if down else local_name,
            "target_file": local_name if down else name,
            "local_path": path_id("local_paths", f"{local_folder}/"),
            "remote_path": path_id("remote_paths", remote_path(folder)),
            "size": -1,
            "error_count": 0,
            "priority": 2,
            "flags": DOWNLOAD if down else 0,
            "default_exists_action": RESUME if verb in ("reget", "reput") else OVERWRITE,
        }
        insert(queue, "files", file)


def insert(queue, table, row):
    marks = ", ".join("?" * len(row))
    return queue.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())).lastrowid


def remote_path(folder):
    """As FileZilla writes one of Unix: each part behind its length."""
    return " ".join(["1 0", *(f"{len(part)} {part}" for part in folder.strip("/").split("/"))])


def begin(process, transcript, environment):
    """Presses the key that processes the queue, until the transcript shows that it has begun."""

    def xdotool(*arguments):
        return subprocess.run(["xdotool", *arguments], env=environment, capture_output=True, timeout=START_LIMIT)

    end = time.monotonic() + START_LIMIT
    while processes.alive(process) and time.monotonic() < end:
        # With no window manager the window below the pointer has the keyboard; it covers the middle of the screen.
        if xdotool("search", "--onlyvisible", "--name", "^FileZilla$").returncode == 0:
            xdotool("key", "ctrl+p")
            if processes.eventually(lambda: transcript.stat().st_size > 0, KEY_LIMIT):
                return
        time.sleep(0.1)
    ended = "" if processes.alive(process) else f", and ended with {process.returncode}"
    raise Failure(f"FileZilla does not begin with its queue{ended}")
