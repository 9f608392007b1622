"""nginx with the module between clients and servers: two workers, a zone for each version of TLS, and a control server
for each way to each FTP server."""

import collections
import os
import re
import shutil
import subprocess

import processes
from servers import REPOSITORY

DATA_PORTS = 60
WORKERS = 2
VERSIONS = ("TLSv1.3", "TLSv1.2")
CONTROL_FORMAT = "$ftp_session|$ftp_user|$status|$ssl_protocol"
DATA_FORMAT = (
    "$ftp_session|$ftp_mode|$ftp_data_port|$ftp_data_status|$ftp_command|$ftp_path|$ssl_protocol|$ssl_session_reused"
    "|$upstream_addr"
)
SERVER_NAME = "server.test"  # of the FTP servers' certificate


class Route:
    """One control server: leg is the client's, version the one of TLS on every leg that has it; with resumption the
    client's data connections have to resume; active: the client may be; toward: what ftp_server_mode says."""

    address = "127.0.0.1"  # what its 227 must show

    def __init__(self, server, leg, version, resumption, active, toward):
        self.server, self.leg, self.version, self.resumption = server, leg, version, resumption
        self.active, self.toward = active, toward
        self.port = None
        self.passive = None  # range of data ports

    def configuration(self, listen, zone):
        server = self.server
        host = f"[{server.address}]" if server.ipv6 else server.address
        lines = [
            listen(self.port, " ssl" if self.leg == "implicit" else ""),
            f"ftp_ctrl {zone};",
            f"proxy_pass {host}:{server.port};",
            f"ssl_protocols {self.version}; proxy_ssl_protocols {self.version};",
        ]
        if self.leg == "explicit":
            lines.append("ftp_auth_tls only;")
        if self.resumption:
            lines.append("ftp_data_tls_reuse required;")
        if self.active:
            lines.append("ftp_client_mode any;")
        if self.toward != "client":
            lines.append(f"ftp_server_mode {self.toward};")
        if server.setting.leg != "plain":
            lines.append("proxy_ssl on;")
        if server.setting.leg == "explicit":
            lines.append("ftp_proxy_auth_tls on;")
        return lines


class Proxy:
    # So that clients' data connections resume their control connection's session; tickets are off for nginx 1.22.
    sessions = ("ssl_session_cache shared:peers:2m;", "ssl_session_tickets off;")

    def __init__(self, folder, ways, certificate, authority):
        """ways: what each control server's Route is made from; certificate: for clients; authority: of the servers'."""
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.routes = {way: Route(*way) for way in ways}
        self.certificate = certificate
        self.authority = authority
        self.error_log = folder / "error.log"
        self.control_log = folder / "control.log"
        self.data_log = folder / "data.log"
        self._seen = collections.Counter()  # bytes of each log
        self.process = None

    def start(self):
        for _ in range(5):
            self.assign_ports()
            configuration = self.folder / "nginx.conf"
            configuration.write_text(self.configuration())
            command = [binary(), "-p", self.folder, "-c", configuration, "-e", self.error_log]
            output = self.folder / "output.log"
            self.process = processes.start(command, output)
            if all(self.greets(route) for route in self.routes.values()):
                self.new_lines(self.error_log)
                self.wait_for_control_end(len(self.routes))
                self.new_lines(self.control_log)
                return
            processes.stop(self.process)
        raise processes.Failure(f"nginx does not start:\n{processes.tail(output)}")

    def assign_ports(self):
        versions = sorted({route.version for route in self.routes.values()})
        first = processes.free_ports(DATA_PORTS * len(versions) + len(self.routes))
        self.data = {}
        for version in versions:
            self.data[version] = range(first, first + DATA_PORTS)
            first += DATA_PORTS
        for port, route in enumerate(self.routes.values(), first):
            route.port = port
            route.passive = self.data[route.version]

    def greets(self, route):
        tls = self.authority.context() if route.leg == "implicit" else None
        return processes.greets(route.address, route.port, self.process, tls)

    def configuration(self):
        ipv6 = processes.have_ipv6()

        def listen(ports, parameters=""):
            both = f"listen 127.0.0.1:{ports}{parameters};"
            return both + f" listen [::1]:{ports}{parameters};" if ipv6 else both

        control, data = [], []
        for version, ports in self.data.items():
            zone = f"zone={version}:1m min_port={ports[0]} max_port={ports[-1]}"
            lines = [
                listen(f"{ports[0]}-{ports[-1]}"),
                f"ftp_data zone={version};",
                f"ssl_protocols {version}; proxy_ssl_protocols {version};",
                f"access_log {self.data_log} data;",
            ]
            data.append(block("server", lines))
            for route in (route for route in self.routes.values() if route.version == version):
                lines = route.configuration(listen, zone)
                control.append(block("server", [*lines, f"access_log {self.control_log} control;"]))
        return "\n".join(
            [
                load_modules(),
                "daemon off;",
                f"worker_processes {WORKERS};",
                f"pid {self.folder}/pid;",
                f"error_log {self.error_log} info;",
                "events { worker_connections 2048; }",
                "stream {",
                f"    log_format control escape=none '{CONTROL_FORMAT}';",
                f"    log_format data escape=none '{DATA_FORMAT}';",
                f"    ssl_certificate {self.certificate.file};",
                f"    ssl_certificate_key {self.certificate.key};",
                *(f"    {line}" for line in self.sessions),
                "    proxy_ssl_verify on;",
                f"    proxy_ssl_trusted_certificate {self.authority.file};",
                f"    proxy_ssl_name {SERVER_NAME};",
                "    proxy_ssl_server_name on;",
                *control,
                *data,
                "}\n",
            ]
        )

    def new_lines(self, log):
        """What was written to the log since the last call."""
        lines, self._seen[log] = lines_behind(log, self._seen[log])
        return lines

    def wait_for_control_end(self, count=1):
        """nginx logs a session a moment after its client has gone."""
        seen = self._seen[self.control_log]
        processes.eventually(lambda: len(lines_behind(self.control_log, seen)[0]) >= count)

    def wait_for_data_end(self):
        """A data connection that its client has left may wait a moment for a transfer command."""
        seen = self._seen[self.error_log]

        def all_have_ended():
            lines = lines_behind(self.error_log, seen)[0]
            return sum("ftp finished port" in line for line in lines) >= sum("ftp matched port" in line for line in lines)

        processes.eventually(all_have_ended)

    def stop(self):
        processes.stop(self.process)


def block(name, lines):
    return f"    {name} {{ {' '.join(lines)} }}"


def lines_behind(log, start):
    """The lines behind that many bytes, and the number of bytes with them."""
    with open(log, "rb") as file:
        file.seek(start)
        found = file.read()
    found = found[: found.rfind(b"\n") + 1]
    return found.decode(errors="surrogateescape").splitlines(), start + len(found)


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
