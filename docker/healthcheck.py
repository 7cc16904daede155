"""Exits with 0 if the server in this container is ready. Needs nothing but Python, and no key."""

import os
import socket
import ssl
import sys
import urllib.request

TIMEOUT_S = 4


def main() -> None:
    """Ask /health/ready; where callers need a certificate, only whether the port takes connections."""
    host = os.environ.get("FACESPHERE_HOST", "")
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
    port = int(os.environ.get("FACESPHERE_PORT") or 8000)
    if os.environ.get("FACESPHERE_TLS_CLIENT_CA"):
        socket.create_connection((host, port), TIMEOUT_S).close()
        return
    scheme = "https" if os.environ.get("FACESPHERE_TLS_CERT") else "http"
    name = f"[{host}]" if ":" in host else host
    # The certificate is of the name that callers use, which 127.0.0.1 is not.
    trusting = ssl._create_unverified_context()  # noqa: S323
    # No proxy of the environment: it is this very container that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    opener.open(f"{scheme}://{name}:{port}/health/ready", timeout=TIMEOUT_S).close()


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"not ready: {error}")
