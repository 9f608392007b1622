"""What every client is asked to do, and what must be true on both file systems afterwards.

An operation is a generator: it lays out files and names its steps, yields, and when the client has run all steps of
its login it compares. The steps' verbs, with remote names relative to the session's folder and local paths absolute:

    list DIR OUT     LIST to a local file            get REMOTE LOCAL      download
    nlst DIR OUT     NLST                            reget REMOTE LOCAL    go on after the bytes LOCAL has (REST, RETR)
    mlsd DIR OUT     MLSD                            put LOCAL REMOTE      upload
    rename OLD NEW   delete NAME                     reput LOCAL REMOTE N  go on after the N bytes that REMOTE has
    mkdir DIR        rmdir DIR                       append LOCAL REMOTE   APPE
    missing REMOTE LOCAL   a download that the server refuses with 550, after which the session goes on
    refused LOCAL REMOTE   an upload that the server refuses with 550 or 553, after which the session goes on
    break REMOTE LOCAL     the client closes the data connection after some bytes, after which the session goes on
    abort REMOTE LOCAL     the client sends ABOR after some bytes, after which the session goes on
"""

import os
import random

from processes import Failure

TRANSFERS = frozenset("list nlst mlsd get reget put reput append".split())
UNFINISHED = frozenset("missing refused break abort".split())  # their data connections may end in any way

SIZE = 1_300_017
BIG = 20_000_003
HUGE = 64 << 20
RANDOM = os.urandom(HUGE + BIG)
ODD_NAMES = (
    "two words",
    "it's \"quoted\"",
    "ünïcödé – 日本語.txt",
    "#hash%20",
    "-dash",
    "semi;colon & $more",
    "[a]{b}*?",
)


class Cell:
    """One login of one client at one server: its two folders and its steps."""

    def __init__(self, remote, local):
        """remote: the session's folder in the server's root; local: the client's folder."""
        self.remote = remote
        self.local = local
        self.steps = []
        for folder in (remote, local):
            folder.mkdir(parents=True)
            folder.chmod(0o777)

    def step(self, verb, *arguments):
        self.steps.append((verb, *map(str, arguments)))

    def remote_file(self, name, content):
        path = self.remote / name
        if path.parent != self.remote:
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o777)
        path.write_bytes(content)
        path.chmod(0o666)

    def local_file(self, name, content):
        path = self.local / name
        path.write_bytes(content)
        return path

    def remote_is(self, name, content):
        same(self.remote / name, content, f"server's {name!r}")

    def local_is(self, name, content):
        same(self.local / name, content, f"client's {name!r}")

    def lines(self, name):
        path = self.local / name
        if not path.exists():
            raise Failure(f"no listing {name}")
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def content_of(size):
    """A part of RANDOM, each time another."""
    start = random.randrange(len(RANDOM) - size)
    return RANDOM[start : start + size]


def same(path, content, what):
    if not path.is_file():
        raise Failure(f"{what} is missing")
    found = path.read_bytes()
    if found != content:
        at = next((i for i, (a, b) in enumerate(zip(found, content)) if a != b), min(len(found), len(content)))
        raise Failure(f"{what} has {len(found)} bytes instead of {len(content)}, first difference at {at}")


def wrong_unless(condition, text):
    if not condition:
        raise Failure(text)


def listing(cell):
    sizes = {"one.txt": 1, "two.txt": 22, "big.bin": 33333}
    for name, size in sizes.items():
        cell.remote_file(f"listed/{name}", b"x" * size)
    cell.step("list", "listed", cell.local / "list.out")
    yield
    # Fields of ls -l: mode, links, owner, group, size, three of the date, name.
    found = {fields[-1]: int(fields[4]) for line in cell.lines("list.out") if len(fields := line.split()) == 9}
    wrong_unless(found == sizes, f"LIST shows {found}")


def name_listing(cell):
    for name in ODD_NAMES:
        cell.remote_file(f"odd names/{name}", b"")
    cell.step("nlst", "odd names", cell.local / "nlst.out")
    yield
    # Some servers name the folder in every line, some the two dots.
    found = {line.removeprefix("odd names/") for line in cell.lines("nlst.out")} - {".", ".."}
    wrong_unless(found == set(ODD_NAMES), f"NLST shows {found}")


def machine_listing(cell):
    for number in range(50):
        cell.remote_file(f"machine/entry {number}", b"x" * number)
    cell.step("mlsd", "machine", cell.local / "mlsd.out")
    yield
    # tnftp shows it only on its terminal.
    lines = cell.lines("mlsd.out" if (cell.local / "mlsd.out").exists() else "transcript")
    absent = [number for number in range(50) if not any(line.endswith(f"entry {number}") for line in lines)]
    wrong_unless(not absent, f"MLSD lacks entries {absent}")


def download(cell):
    content = content_of(SIZE)
    cell.remote_file("down.bin", content)
    cell.step("get", "down.bin", cell.local / "down.out")
    yield
    cell.local_is("down.out", content)


def upload(cell):
    content = content_of(SIZE)
    cell.step("put", cell.local_file("up.in", content), "up.bin")
    yield
    cell.remote_is("up.bin", content)


def big_files(cell):
    content = content_of(BIG)
    cell.remote_file("big-down.bin", content)
    cell.step("get", "big-down.bin", cell.local / "big-down.out")
    cell.step("put", cell.local_file("big-up.in", content), "big-up.bin")
    yield
    cell.local_is("big-down.out", content)
    cell.remote_is("big-up.bin", content)


def empty_files(cell):
    cell.remote_file("empty-down", b"")
    cell.step("get", "empty-down", cell.local / "empty.out")
    cell.step("put", cell.local_file("empty.in", b""), "empty-up")
    yield
    cell.local_is("empty.out", b"")
    cell.remote_is("empty-up", b"")


def resumed_download(cell):
    # The part that is there differs from the server's: only a true REST leaves it.
    mark, content = b"m" * 100_001, content_of(SIZE)
    cell.remote_file("resume.bin", content)
    cell.local_file("resume.out", mark)
    cell.step("reget", "resume.bin", cell.local / "resume.out")
    yield
    cell.local_is("resume.out", mark + content[len(mark) :])


def resumed_upload(cell):
    mark, content = b"m" * 100_001, content_of(SIZE)
    cell.remote_file("continue.bin", mark)
    cell.step("reput", cell.local_file("continue.in", content), "continue.bin", len(mark))
    yield
    cell.remote_is("continue.bin", mark + content[len(mark) :])


def appending(cell):
    start, end = content_of(5000), content_of(SIZE)
    cell.remote_file("append.bin", start)
    cell.step("append", cell.local_file("append.in", end), "append.bin")
    yield
    cell.remote_is("append.bin", start + end)


def renaming(cell):
    cell.remote_file("old name", b"renamed")
    cell.step("rename", "old name", "new name")
    yield
    cell.remote_is("new name", b"renamed")
    wrong_unless(not (cell.remote / "old name").exists(), "the old name is still there")


def deleting(cell):
    cell.remote_file("doomed", b"x")
    cell.step("delete", "doomed")
    yield
    wrong_unless(not (cell.remote / "doomed").exists(), "the file is still there")


def folders(cell):
    (cell.remote / "old folder").mkdir()
    (cell.remote / "old folder").chmod(0o777)
    cell.step("mkdir", "made folder")
    cell.step("rmdir", "old folder")
    yield
    wrong_unless((cell.remote / "made folder").is_dir(), "no folder was made")
    wrong_unless(not (cell.remote / "old folder").exists(), "the folder is still there")


def odd_names(cell):
    content = {name: name.encode() * 100 for name in ODD_NAMES}
    for number, name in enumerate(ODD_NAMES):
        for copy in (name, f"{name} a", f"{name} c"):
            cell.remote_file(copy, content[name])
        cell.step("get", name, cell.local / f"odd-{number}.out")
        cell.step("rename", f"{name} a", f"{name} b")
        cell.step("delete", f"{name} c")
        cell.step("put", cell.local_file(f"odd-{number}.in", content[name]), f"{name} d")
    yield
    for number, name in enumerate(ODD_NAMES):
        cell.local_is(f"odd-{number}.out", content[name])
        cell.remote_is(f"{name} b", content[name])
        wrong_unless(not (cell.remote / f"{name} c").exists(), f"{name} c is still there")
        cell.remote_is(f"{name} d", content[name])


def many_transfers(cell):
    contents = [content_of(1 + 7919 * number) for number in range(10)]
    for number, content in enumerate(contents):
        cell.remote_file(f"many-down-{number}", content)
        cell.step("get", f"many-down-{number}", cell.local / f"many-{number}.out")
        cell.step("put", cell.local_file(f"many-{number}.in", content), f"many-up-{number}")
    yield
    for number, content in enumerate(contents):
        cell.local_is(f"many-{number}.out", content)
        cell.remote_is(f"many-up-{number}", content)


def missing_file(cell):
    cell.step("missing", "no such file", cell.local / "missing.out")
    cell.step("put", cell.local_file("after-missing.in", b"after"), "after-missing")
    yield
    wrong_unless(not (cell.local / "missing.out").exists(), "a file that is not there was downloaded")
    cell.remote_is("after-missing", b"after")


def refused_upload(cell):
    (cell.remote / "a folder").mkdir()
    cell.step("refused", cell.local_file("refused.in", content_of(SIZE)), "a folder")
    cell.step("put", cell.local_file("after-refused.in", b"after"), "after-refused")
    yield
    wrong_unless((cell.remote / "a folder").is_dir(), "the folder is gone")
    cell.remote_is("after-refused", b"after")


def broken_off(cell):
    return stopped(cell, "break")


def aborted(cell):
    return stopped(cell, "abort")


def slow_upload(cell):
    content = content_of(HUGE)
    cell.step("put", cell.local_file("slow.in", content), "slow.bin")
    yield
    cell.remote_is("slow.bin", content)


def stopped(cell, verb):
    content = content_of(BIG)
    cell.remote_file(f"{verb}.bin", content)
    cell.step(verb, f"{verb}.bin", cell.local / f"{verb}.out")
    cell.step("put", cell.local_file(f"after-{verb}.in", b"after"), f"after-{verb}")
    yield
    found = (cell.local / f"{verb}.out").read_bytes()
    wrong_unless(0 < len(found) < BIG, f"the client has {len(found)} bytes of it")
    wrong_unless(content.startswith(found), "the client has other bytes")
    cell.remote_is(f"after-{verb}", b"after")


ALL = {
    "LIST": listing,
    "NLST of odd names": name_listing,
    "MLSD": machine_listing,
    "download": download,
    "upload": upload,
    "empty files": empty_files,
    "resumed download": resumed_download,
    "resumed upload": resumed_upload,
    "append": appending,
    "rename": renaming,
    "delete": deleting,
    "mkdir and rmdir": folders,
    "odd names": odd_names,
    "many transfers": many_transfers,
    "refused download": missing_file,
    "refused upload": refused_upload,
    "download broken off": broken_off,
    "ABOR": aborted,
    "big files": big_files,
}
# With a server that takes its time.
SLOW = {"upload of 64 MiB": slow_upload}


def prepare(cell, can, slow):
    """Lays out the files of all operations with verbs that this pair can do; returns their second halves by name."""
    halves = {}
    for name, operation in (SLOW if slow else ALL).items():
        before = len(cell.steps)
        half = operation(cell)
        next(half)
        verbs = {verb for verb, *_ in cell.steps[before:]}
        if verbs <= can:
            halves[name] = half
        else:
            del cell.steps[before:]
    return halves
