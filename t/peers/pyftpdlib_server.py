"""pyftpdlib as a server: arguments are address, port, first and last passive port, root, user, password."""

import logging
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

address, port, first, last, root, user, password = sys.argv[1:]
logging.basicConfig(level=logging.DEBUG)
authorizer = DummyAuthorizer()
authorizer.add_user(user, password, root, perm="elradfmwMT")
FTPHandler.authorizer = authorizer
FTPHandler.passive_ports = range(int(first), int(last) + 1)
FTPServer((address, int(port)), FTPHandler).serve_forever()
