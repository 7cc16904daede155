"""Each example is run as its own text says, against a real server."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from live_server import LiveServer
from photos import ROOT, astronaut, encode

EXAMPLES = ROOT / "examples"
EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of one person, a.jpg and b.jpg."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "a.jpg").write_bytes(encode(astronaut(), "JPEG"))
    (folder / "b.jpg").write_bytes(encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG"))
    return folder


def _run(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "client"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **more}
    environment.pop("FACESPHERE_API_KEY", None)
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_example_is_told_of() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert all(path.name in text for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".mjs"))


def test_attendance(server: LiveServer, photos: Path, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        (tmp_path / "people" / name).mkdir(parents=True)
    shutil.copy(photos / "a.jpg", tmp_path / "people" / "ann" / "1.jpg")
    (tmp_path / "people" / "bob" / "1.png").write_bytes(EMPTY)
    (tmp_path / "event").mkdir()
    shutil.copy(photos / "b.jpg", tmp_path / "event" / "hall.jpg")
    (tmp_path / "event" / "wall.png").write_bytes(EMPTY)
    words = (sys.executable, EXAMPLES / "attendance.py", tmp_path / "people", tmp_path / "event")

    for url in (server.http, f"grpc://{server.grpc}"):
        done = _run(*words, "--server", url)
        assert [row[:3] for row in csv.reader(done.stdout.splitlines())] == [
            ["name", "photos", "surest"],
            ["ann", "1", "hall.jpg"],
        ]
        assert "bob/1.png: not enrolled, face_not_found" in done.stderr
    assert server.client.get("/collections/attendance").json()["faces"] == 1


def test_duplicates(server: LiveServer, photos: Path, tmp_path: Path) -> None:
    for name, photo in (("ann", "a.jpg"), ("ann again", "b.jpg")):
        (tmp_path / name).mkdir()
        shutil.copy(photos / photo, tmp_path / name)

    done = _run(sys.executable, EXAMPLES / "duplicates.py", tmp_path, "--server", f"grpc://{server.grpc}")

    (line,) = done.stdout.splitlines()
    assert line.split("  ")[1:] == ["ann", "ann again"]
    assert "1 comparisons at FMR 1e-05: expect 1e-05 false pairs" in done.stderr


def test_clustering(server: LiveServer, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "library")
    (tmp_path / "library" / "wall.png").write_bytes(EMPTY)

    done = _run(sys.executable, EXAMPLES / "cluster_photos.py", tmp_path / "library", "--server", server.http)

    people = json.loads(done.stdout)
    assert {name: sorted(face["photo"] for face in faces) for name, faces in people.items()} == {
        "person 1": ["a.jpg", "b.jpg"]
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_curl(server: LiveServer, photos: Path) -> None:
    done = _run(EXAMPLES / "by_curl.sh", photos / "a.jpg", photos / "b.jpg", SERVER=server.http)

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 12
    assert answers[4]["matched"] is True
    assert answers[7]["candidates"][0]["subject"] == "alice"


def test_grpcurl_or_what_stands_in_for_it(server: LiveServer, photos: Path) -> None:
    reflect = f"{sys.executable} {EXAMPLES / 'reflect.py'}"

    done = _run(EXAMPLES / "by_grpcurl.sh", photos / "a.jpg", photos / "b.jpg", SERVER=server.grpc, GRPCURL=reflect)

    assert "face_embedding.v1.Gallery" in done.stdout
    assert "EnrollStream(face_embedding.v1.EnrollStreamRequest)" in done.stdout
    assert '"status": "SERVING"' in done.stdout
    assert '"matched": true' in done.stdout
    assert '"decision": "known"' in done.stdout
    assert '"signature"' in done.stdout


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")
def test_fetch(server: LiveServer, photos: Path) -> None:
    done = _run("node", EXAMPLES / "by_fetch.mjs", photos / "a.jpg", photos / "b.jpg", server.http)

    lines = done.stdout.splitlines()
    assert lines[0].endswith("128 values of norm 1.000")
    assert lines[1].startswith("one person at FMR 0.0001: true")
    assert lines[2] == "known: Alice Ångström"
    assert lines[3].startswith("erased 1 face, signed by ")
    assert lines[4] == "not_found"
