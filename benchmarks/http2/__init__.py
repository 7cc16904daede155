"""Unary gRPC calls over HTTP/2, by hand: what the load needs of both, so that it leaves the cores to the server.

A request is the bytes of one made before. Of an answer only its status and the length of its message are looked at. The
calls of a client are of one method and have one deadline, beyond which none waits. A call whose stream the server
refused, because it has not yet let go of one that it has answered, is begun again, as other clients do; no other is.
"""

from .client import Client
from .connection import Done
from .frames import CODES, framed

__all__ = ["CODES", "Client", "Done", "framed"]
