"""TAP of logins that are under way at the same time: the cases of each come out in one piece, when it has ended."""

import collections
import threading
import traceback

from processes import Failure


class Report:
    """The cases of one login, or of something else that is tried as a whole."""

    def __init__(self, todo=None):
        self.todo = todo  # the reason why failures are known
        self.lines = []  # (how a case came out, or None for a note; the text behind its number)

    def case(self, name, check):
        """check raises Failure, or returns."""
        try:
            check()
        except Exception as error:
            self.result(name, described(error))
        else:
            self.result(name)

    def result(self, name, problem=None):
        todo = f" # TODO {self.todo}" if self.todo else ""
        how = "passed" if problem is None else "known" if self.todo else "failed"
        self.lines.append((how, f"{name}{todo}"))
        self.note(problem or "")

    def skip(self, name, reason):
        self.lines.append(("skipped", f"{name} # SKIP {reason}"))

    def note(self, text):
        self.lines += [(None, line) for line in text.splitlines()]

    @property
    def failed(self):
        return any(how == "failed" for how, _ in self.lines)


class Tap:
    def __init__(self):
        self.counts = collections.Counter()
        self.lock = threading.Lock()

    def add(self, report):
        with self.lock:
            for how, text in report.lines:
                if how is None:
                    print(f"# {text}")
                else:
                    self.counts[how] += 1
                    result = "ok" if how in ("passed", "skipped") else "not ok"
                    print(f"{result} {self.counts.total()} - {text}")
            print(end="", flush=True)

    def note(self, text):
        report = Report()
        report.note(text)
        self.add(report)

    def close(self):
        print(f"1..{self.counts.total()}")
        if self.counts["skipped"]:
            print(f"# {self.counts['skipped']} skipped")
        if self.counts["known"]:
            print(f"# {self.counts['known']} failed as it is known")
        print(f"{self.counts['passed']} passed, {self.counts['failed']} failed", flush=True)


def described(error):
    return str(error) if isinstance(error, Failure) else "".join(traceback.format_exception(error))
