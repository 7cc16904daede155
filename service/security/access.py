"""One shared key, from the settings. Without it the server is for this machine alone."""

import hashlib
import hmac
import ipaddress

from service.errors import UnauthenticatedError


class Access:
    """Checks the key of a call."""

    def __init__(self, api_key: str | None) -> None:
        self._digest = _digest(api_key) if api_key else None

    @property
    def required(self) -> bool:
        """Whether calls must carry a key."""
        return self._digest is not None

    def check(self, authorization: str | None) -> None:
        """Check the value of an `Authorization` header or metadata entry.

        Raises:
            UnauthenticatedError: a key is required and this is not it.
        """
        if self._digest is None:
            return
        scheme, _, key = (authorization or "").partition(" ")
        # Digests have one length, so the comparison tells nothing about the key's.
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip()), self._digest):
            raise UnauthenticatedError("send a valid key as: Authorization: Bearer <key>")


def is_loopback(host: str) -> bool:
    """Whether a server bound to this address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
