"""Child processes and ports: everything started here is ended by stop_all(), and nothing waits without a limit."""

import os
import random
import signal
import socket
import subprocess
import threading
import time

START_LIMIT = 10  # seconds

_lock = threading.Lock()  # of these three
_running = []
_ending = False
_given = set()


class Failure(Exception):
    """Something did not come out as it should; the text says what."""


def start(command, log, **options):
    """Starts a daemon in a process group of its own, its output going to the file `log`."""
    with open(log, "ab") as output:
        return _launch(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)


def run(command, stdin, log, limit, **options):
    """Runs a client to its end; returns its exit status, or None if it was killed after `limit` seconds."""
    with open(log, "wb") as output:
        process = _launch(command, stdin=subprocess.PIPE, stdout=output, stderr=output, **options)
    try:
        process.communicate(stdin, timeout=limit)
        return process.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        stop(process)


def _launch(command, **options):
    with _lock:
        if _ending:
            raise Failure("the run was ended")
        process = subprocess.Popen(command, start_new_session=True, **options)
        _running.append(process)
    return process


def stop(process, limit=5):
    """Ends the whole group: politely, then not."""
    for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, limit)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
    with _lock:
        if process in _running:
            _running.remove(process)


def stop_all():
    """From here on nothing starts."""
    global _ending
    with _lock:
        _ending = True
        left = _running[::-1]
    for process in left:
        stop(process)


def alive(process):
    return process.poll() is None


def free_ports(count):
    """The first of `count` ports in a row that can be bound now, on any address, and were never given before; they are
    below the ephemeral range."""
    for _ in range(200):
        first = random.randrange(10000, 32000 - count)
        ports = range(first, first + count)
        with _lock:
            if _given.isdisjoint(ports) and all(_bindable(port) for port in ports):
                _given.update(ports)
                return first
    raise Failure(f"no {count} free ports in a row")


def _bindable(port):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, port))
        except OSError:
            if family == socket.AF_INET or have_ipv6():
                return False
    return True


def have_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


def have_global_ipv6():
    with open("/proc/net/if_inet6") as addresses:
        return any(line.split()[3] == "00" for line in addresses)


def greets(address, port, process, tls=None):
    """Waits until an FTP greeting comes from there; False if the process ended before. tls: context of implicit TLS."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and alive(process):
        try:
            with socket.create_connection((address, port), timeout=2) as sock:
                with tls.wrap_socket(sock, server_hostname=address) if tls else sock as speaking:
                    if speaking.recv(4) in (b"220 ", b"220-"):
                        return True
        except OSError:
            time.sleep(0.05)
    return False


def tool(command, **options):
    """Runs a program that has nothing to ask, to its good end; returns its output."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    if result.returncode:
        raise Failure(f"{command[0]} failed: {result.stderr or result.stdout}")
    return result.stdout


def eventually(condition, limit=5):
    """The first true value of `condition`, or its last one when the time is over."""
    end = time.monotonic() + limit
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def tail(log, count=15):
    return "\n".join(log.read_text(errors="backslashreplace").splitlines()[-count:])
