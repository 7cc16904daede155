"""Certificates for both protocols, checked before a port is opened."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: certificate chain, private key, and the authority that callers' certificates must be of, if any."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Load them as the servers will.

        Raises:
            InvalidRequestError: a file is missing, not PEM, encrypted, or key and certificate are no pair.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise InvalidRequestError(
                f"cannot use {self.cert} with the key {self.key} for TLS: {_reason(error)}"
            ) from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise InvalidRequestError(f"cannot use {self.client_ca} for TLS: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "it is no PEM file, or the key is encrypted"
    return getattr(error, "strerror", None) or str(error)
