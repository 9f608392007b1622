"""nginx with the module between clients and servers: two workers, one zone, one control server per FTP server."""

import os
import re
import shutil
import subprocess

import processes
from servers import REPOSITORY

DATA_PORTS = 60
WORKERS = 2
CONTROL_FORMAT = "$ftp_session|$ftp_user|$status"
DATA_FORMAT = "$ftp_session|$ftp_mode|$ftp_data_port|$ftp_data_status|$ftp_command|$ftp_path"


class Proxy:
    address = "127.0.0.1"  # what its 227 must show

    def __init__(self, folder, servers):
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.servers = servers
        self.error_log = folder / "error.log"
        self.control_log = folder / "control.log"
        self.data_log = folder / "data.log"
        self._seen = {}

    def start(self):
        for _ in range(5):
            first = processes.free_ports(DATA_PORTS + len(self.servers))
            self.passive = range(first, first + DATA_PORTS)
            self.ports = {server: self.passive[-1] + 1 + i for i, server in enumerate(self.servers)}
            configuration = self.folder / "nginx.conf"
            configuration.write_text(self.configuration())
            command = [binary(), "-p", self.folder, "-c", configuration, "-e", self.error_log]
            output = self.folder / "output.log"
            self.process = processes.start(command, output)
            if all(processes.greets(self.address, port, self.process) for port in self.ports.values()):
                self.new_lines(self.error_log)
                processes.eventually(lambda: len(lines_of(self.control_log)) == len(self.servers))
                self.new_lines(self.control_log)
                return
            processes.stop(self.process)
        raise processes.Failure(f"nginx does not start:\n{processes.tail(output)}")

    def configuration(self):
        ipv6 = processes.have_ipv6()

        def listen(ports):
            return f"listen 127.0.0.1:{ports};" + (f" listen [::1]:{ports};" if ipv6 else "")

        ports = f"{self.passive[0]}-{self.passive[-1]}"
        size = f":1m min_port={self.passive[0]} max_port={self.passive[-1]}"
        control = []
        for server, port in self.ports.items():
            host = f"[{server.address}]" if server.ipv6 else server.address
            control.append(
                f"    server {{ {listen(port)} ftp_ctrl zone=peers{size}; proxy_pass {host}:{server.port};"
                f" access_log {self.control_log} control; }}"
            )
            size = ""  # the first one gives it
        return "\n".join(
            [
                load_modules(),
                "daemon off;",
                f"worker_processes {WORKERS};",
                f"pid {self.folder}/pid;",
                f"error_log {self.error_log} info;",
                "events { worker_connections 2048; }",
                "stream {",
                f"    log_format control '{CONTROL_FORMAT}';",
                f"    log_format data escape=none '{DATA_FORMAT}';",
                *control,
                f"    server {{ {listen(ports)} ftp_data zone=peers; access_log {self.data_log} data; }}",
                "}\n",
            ]
        )

    def new_lines(self, log):
        """What was written to the log since the last call."""
        lines = lines_of(log)
        start = self._seen.get(log, 0)
        self._seen[log] = len(lines)
        return lines[start:]

    def wait_for_control_end(self):
        """nginx logs a session a moment after its client has gone."""
        processes.eventually(lambda: len(lines_of(self.control_log)) > self._seen.get(self.control_log, 0))

    def stop(self):
        processes.stop(self.process)


def lines_of(log):
    return log.read_text(errors="surrogateescape").splitlines() if log.exists() else []


def grave(lines):
    """The lines that no green run has."""
    return [line for line in lines if re.search(r"\[(error|crit|alert|emerg)\]|panic|Sanitizer", line)]


def binary():
    return os.environ.get("TEST_NGINX_BINARY") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


def load_modules():
    """TEST_NGINX_GLOBALS, or what the tested nginx needs: its dynamic stream module, if it is one, and ours."""
    if "TEST_NGINX_GLOBALS" in os.environ:
        return os.environ["TEST_NGINX_GLOBALS"]
    about = subprocess.run([binary(), "-V"], capture_output=True, text=True, check=True, timeout=10).stderr
    version = re.search(r"nginx/(\S+)", about)[1]
    lines = []
    if "--with-stream=dynamic" in about:
        modules = re.search(r"--modules-path=(\S+)", about)[1]
        lines.append(f"load_module {modules}/ngx_stream_module.so;")
    target = os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target"
    lines.append(f"load_module {target}/nginx-{version}/ngx_stream_ftp_proxy_module.so;")
    return "\n".join(lines)
