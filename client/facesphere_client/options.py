"""How a client reaches its server."""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from facesphere_client.retry import Retry

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. `ca`: who must have signed the server's certificate; those that the system trusts, if left out. `cert`
    and `key`: of the caller, where the server asks for them."""

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a caller's certificate needs its key, and the other way round")

    def context(self) -> ssl.SSLContext:
        """For REST."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context

    def files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Contents of ca, key and cert, for gRPC."""
        ca, key, cert = (None if each is None else Path(each).read_bytes() for each in (self.ca, self.key, self.cert))
        return ca, key, cert


@dataclass(frozen=True, slots=True)
class Options:
    """Key, limits and certificates.

    `timeout_s`: for one attempt at one call. `concurrency`: how many photos of a stream are under way at once.
    `trust_env`: whether REST goes by HTTP_PROXY and its like.
    """

    key: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    retry: Retry = field(default_factory=Retry)
    tls: Tls | None = None
    concurrency: int = 16
    trust_env: bool = True
    user_agent: str = f"facesphere-client/{VERSION}"

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.concurrency < 1:
            raise ValueError("timeout_s is above 0, and concurrency at least 1")


def split_url(url: str) -> tuple[str, str, bool]:
    """Protocol (`rest` or `grpc`), what its library takes as an address, and whether with TLS.

    Raises:
        ValueError: another scheme, or no host.
    """
    scheme, separator, rest = url.partition("://")
    host = rest.rstrip("/")
    if not separator or not host:
        raise ValueError(
            f"{url!r} is no address: write http://host:8000, https://..., grpc://host:50051 or grpcs://..."
        )
    if scheme in ("http", "https"):
        return "rest", f"{scheme}://{host}", scheme == "https"
    if scheme in ("grpc", "grpcs") and "/" not in host:
        return "grpc", host, scheme == "grpcs"
    raise ValueError(f"{url!r} is no address: write http://host:8000, https://..., grpc://host:50051 or grpcs://...")
