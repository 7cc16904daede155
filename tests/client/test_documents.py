"""The programs in docs/client.md and docs/migration.md do what stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from live_server import LiveServer
from photos import ROOT, astronaut, encode

BLOCKS = [
    (name, number, block)
    for name in ("client.md", "migration.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL), 1)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the documents' files are."""
    folder = tmp_path_factory.mktemp("documents")
    for place in ("photos", "db_path/alice"):
        (folder / place).mkdir(parents=True)
    for name in ("alice.jpg", "photos/a.jpg", "db_path/alice/1.jpg"):
        (folder / name).write_bytes(encode(astronaut(), "JPEG"))
    (folder / "alice2.jpg").write_bytes(encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG"))
    return folder


@pytest.mark.parametrize(("name", "number", "block"), BLOCKS, ids=[f"{name} {number}" for name, number, _ in BLOCKS])
def test_a_program_of_the_documents_runs(server: LiveServer, folder: Path, name: str, number: int, block: str) -> None:
    program = block.replace("http://127.0.0.1:8000", server.http).replace("127.0.0.1:50051", server.grpc)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stdout + done.stderr
    if (name, number) == ("client.md", 1):
        lines = done.stdout.splitlines()
        assert lines[0].startswith("True ")
        assert lines[1].startswith("(128,) float32 ")
        assert lines[2:] == ["alice", "True"]
    assert server.client.get("/collections").status_code == 200


def test_every_call_of_the_client_is_told_of() -> None:
    from facesphere_client import Client

    text = (ROOT / "docs" / "client.md").read_text()
    calls = [name for name, member in vars(Client).items() if callable(member) and not name.startswith("_")]

    assert [name for name in calls if name != "close" and not re.search(rf"`{name}\b", text)] == []
