"""The run's own certificate authority and what it signs; clients, proxy and servers trust nothing else."""

import collections
import ssl

from processes import tool

Certificate = collections.namedtuple("Certificate", "file key")


class Authority:
    def __init__(self, folder):
        folder.mkdir()
        folder.chmod(0o755)  # clients read its certificate whoever they are
        self.folder = folder
        self.file = self._make("authority").file

    def issue(self, name, addresses):
        """A certificate for that host name and those addresses."""
        names = ",".join([f"DNS:{name}", *(f"IP:{address}" for address in addresses)])
        key = self.folder / "authority.key"
        return self._make(name, "-CA", self.file, "-CAkey", key, "-addext", f"subjectAltName={names}")

    def context(self):
        """For Python's own ssl: whoever shows no certificate of this authority is refused."""
        return ssl.create_default_context(cafile=self.file)

    def _make(self, name, *options):
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        # RSA: ProFTPD and vsftpd name their directives after it.
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        tool([*request, *options, "-keyout", made.key, "-out", made.file])
        return made
