"""A real server on a real file system of 20 MB that fills up: nothing is lost, and it goes on when there is room."""

import errno
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer, live_server

DIMENSION = 128
MEGABYTES = 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The folder where it is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(folder)]
    refused = subprocess.run(mount, capture_output=True, text=True, check=False)
    if refused.returncode:
        pytest.skip(f"this machine does not let a test mount a file system: {refused.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _vector(name: str) -> list[float]:
    vector = np.random.default_rng(list(name.encode())).normal(size=DIMENSION)
    return list(vector / np.linalg.norm(vector))


def _enrol(server: LiveServer, name: str) -> Any:
    return server.client.post(f"/collections/lab/subjects/{name}/faces", json={"embedding": _vector(name)})


def _found(server: LiveServer, name: str) -> list[str]:
    body = {"embedding": _vector(name), "threshold": 0.9}
    answer = server.client.post("/collections/lab/identify", json=body)
    assert answer.status_code == 200, answer.text
    return [each["subject"] for each in answer.json()["candidates"]]


def _fill(file: Path, leave: int = 0) -> None:
    """Take all the room there is, but for some bytes."""
    with file.open("ab", buffering=0) as ballast:
        while (room := shutil.disk_usage(file.parent).free - leave) > 0:
            try:
                ballast.write(bytes(min(room, 2**16)))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017
                return


def test_a_full_disk_refuses_writes_answers_searches_and_takes_writes_again_when_there_is_room(
    disk: Path, models_dir: Path
) -> None:
    acknowledged: list[str] = []
    with live_server(disk / "data", models_dir=str(models_dir)) as server:
        server.client.put("/collections/lab", json={"purpose": "p"})
        _fill(disk / "ballast", leave=2**22)
        for number in range(5000):
            answer = _enrol(server, f"person-{number}")
            if answer.status_code != 201:
                break
            acknowledged.append(f"person-{number}")
        assert answer.status_code == 507
        assert answer.json()["error"]["code"] == "storage_full"
        assert len(acknowledged) > 20

        _fill(disk / "ballast")  # not a byte is left
        for number in range(10):
            assert _enrol(server, f"late-{number}").status_code == 507
            assert server.client.put(f"/collections/late-{number}", json={"purpose": "p"}).status_code == 507
            assert _found(server, f"late-{number}") == []
            assert _found(server, acknowledged[number]) == [acknowledged[number]]
        assert server.client.get("/collections/lab").json()["subjects"] == len(acknowledged)
        assert server.client.get("/health/ready").status_code == 200

        (disk / "ballast").unlink()
        assert _enrol(server, "after").status_code == 201
        acknowledged.append("after")
        assert server.client.delete(f"/collections/lab/subjects/{acknowledged[0]}").status_code == 200
        assert _found(server, acknowledged.pop(0)) == []
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(timeout=30)

    with live_server(disk / "data", models_dir=str(models_dir)) as server:
        page = server.client.get("/collections/lab/subjects", params={"limit": 1000}).json()
        assert sorted(each["subject"] for each in page["subjects"]) == sorted(acknowledged)
        assert [_found(server, name) for name in acknowledged[-5:]] == [[name] for name in acknowledged[-5:]]
        assert server.client.get("/collections").json()["collections"][1:] == []
    print(f"{len(acknowledged)} acknowledged on a disk that filled up, none lost")
