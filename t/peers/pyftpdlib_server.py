"""pyftpdlib as a server: arguments are address, port, first and last passive port, root, user, password, and how it
speaks: plain, explicit or "explicit strict", with the file of its certificate and key."""

import logging
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

address, port, first, last, root, user, password, how, pem = sys.argv[1:]
logging.basicConfig(level=logging.DEBUG)
authorizer = DummyAuthorizer()
authorizer.add_user(user, password, root, perm="elradfmwMT")
handler = FTPHandler if how == "plain" else TLS_FTPHandler
handler.authorizer = authorizer
handler.passive_ports = range(int(first), int(last) + 1)
if handler is TLS_FTPHandler:
    handler.certfile = pem
    handler.tls_control_required = True
    handler.tls_data_required = how == "explicit strict"
FTPServer((address, int(port)), handler).serve_forever()
