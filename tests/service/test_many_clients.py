"""Clients in processes of their own, over both protocols at once: each gets the answers that its own model gives."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import LiveServer, environment, live_server
from mixed_calls import SHARED
from photos import ROOT

TORTURE = float(os.environ.get("TORTURE", "0"))
CLIENTS = 4

pytestmark = pytest.mark.timeout(0 if TORTURE else 120)


def _client(server: LiveServer, number: int, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests" / "support" / "mixed_calls.py"), server.http, server.grpc]
    return subprocess.Popen(
        [*command, str(number), str(calls)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )


def _subjects(server: LiveServer, collection: str) -> Iterator[tuple[str, list[str]]]:
    """Everybody of a collection with their faces."""
    cursor = ""
    while True:
        page = server.client.get(f"/collections/{collection}/subjects", params={"limit": 100, "cursor": cursor}).json()
        for each in page["subjects"]:
            person = server.client.get(f"/collections/{collection}/subjects/{each['subject']}").json()
            yield each["subject"], sorted(face["face_id"] for face in person["faces"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def test_four_clients_at_once_get_the_answers_of_their_models_and_so_is_the_end(
    tmp_path: Path, models_dir: Path
) -> None:
    calls = max(40, round(10_000 * TORTURE)) // CLIENTS if TORTURE else 60
    with live_server(tmp_path / "data", models_dir=str(models_dir)) as server:
        assert server.client.put(f"/collections/{SHARED}", json={"purpose": "p"}).status_code == 201
        clients = [_client(server, number, calls) for number in range(CLIENTS)]
        said = [json.loads(client.communicate()[0]) for client in clients]
        assert [client.returncode for client in clients] == [0] * CLIENTS

        assert [each["differed"] for each in said] == [[]] * CLIENTS
        expected: dict[str, dict[str, list[str]]] = {}
        for each in said:
            for collection, people in each["people"].items():
                faces_of = {name: sorted(faces) for name, faces in people.items()}
                expected.setdefault(collection, {}).update(faces_of)
        names = {each["name"] for each in server.client.get("/collections").json()["collections"]}
        assert {name: dict(_subjects(server, name)) for name in names} == expected
    done = sum((Counter(each["counts"]) for each in said), Counter())
    print(f"{done.total()} calls of {CLIENTS} clients, none answered otherwise than expected: {dict(done)}")
    assert done.total() == CLIENTS * calls
