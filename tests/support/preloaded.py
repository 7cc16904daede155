"""Both command lines as programs that cost no start: each call is a fork of a process that has imported them.

As a script it is that process: it listens at a socket, and a call brings its arguments, folder and streams.
"""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CLIENT = """
import json, os, socket, sys
call = socket.socket(socket.AF_UNIX)
call.connect(sys.argv[1])
asked = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(call, [len(asked).to_bytes(4, "big")], [0, 1, 2])
call.sendall(asked)
sys.exit(int(call.recv(8) or 70))
"""


@contextlib.contextmanager
def programs(folder: Path) -> Iterator[Path]:
    """A folder with `facesphere` and `facesphere-train` in it."""
    bin_, address = folder / "bin", folder / "socket"
    bin_.mkdir(parents=True)
    (folder / "client.py").write_text(_CLIENT)
    for name in ("facesphere", "facesphere-train"):
        line = shlex.join([sys.executable, "-ISE", str(folder / "client.py"), str(address), name])
        (bin_ / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (bin_ / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n"
        yield bin_
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def _serve(address: str) -> None:
    import signal

    import service.__main__
    import training.__main__
    import training.commands.align

    mains = {"facesphere": service.__main__.main, "facesphere-train": training.__main__.main}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            call, _ = listening.accept()
            if os.fork():
                call.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            head, streams, _, _ = socket.recv_fds(call, 4, 3)
            with call.makefile("rb") as rest:
                arguments, folder, environment = json.loads(rest.read(int.from_bytes(head, "big")))
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            status: object = 70
            try:
                mains[arguments[0]](arguments[1:])
            except SystemExit as end:
                status = end.code or 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                call.sendall(str(status).encode())
                os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
