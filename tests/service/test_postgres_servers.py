"""Real servers on one database, and the command line beside them."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from live_server import LiveServer, command, environment, live_server, wait_until
from photos import ROOT
from postgres_server import Cluster, running

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb


def _unit(seed: int) -> list[float]:
    vector = np.random.default_rng(seed).normal(size=128)
    return list(vector / np.linalg.norm(vector))


@pytest.fixture
def settings(models_dir: Path, tmp_path: Path, cluster: Cluster) -> dict[str, str]:
    """Settings of two servers with one master key and one database."""
    (tmp_path / "master.key").write_bytes(base64.b64encode(bytes(range(32))))
    return {
        "models_dir": str(models_dir),
        "gallery_url": cluster.url(cluster.new_database()),
        "master_key_file": str(tmp_path / "master.key"),
    }


def _run(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(**settings), timeout=60, check=False
    )


@pytest.fixture
def servers(settings: dict[str, str], tmp_path: Path) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two servers, each with a data folder of its own."""
    with live_server(tmp_path / "a", **settings) as one, live_server(tmp_path / "b", **settings) as two:
        yield one, two


def test_two_servers_on_one_database_are_one_gallery(
    servers: tuple[LiveServer, LiveServer], settings: dict[str, str], tmp_path: Path
) -> None:
    one, two = servers
    assert one.client.put("/collections/lab", json={"purpose": "test"}).status_code == 201
    assert two.client.put("/collections/lab", json={"purpose": "test"}).status_code == 200
    enrolled = one.client.post("/collections/lab/subjects/Ann/faces", json={"embedding": _unit(1)})
    assert enrolled.status_code == 201

    found = two.client.post("/collections/lab/identify", json={"embedding": _unit(1)}).json()
    by_grpc = two.gallery.Identify(pb.IdentifyRequest(collection="lab", probe=pb.Probe(embedding=_embedding(1))))
    assert [each["subject"] for each in found["candidates"]] == ["Ann"]
    assert found["gallery_size"] == 1
    assert [each.subject for each in by_grpc.results[0].candidates] == ["Ann"]
    receipt = two.client.delete("/collections/lab/subjects/Ann").json()
    assert receipt["face_ids"] == [each["face_id"] for each in enrolled.json()["faces"]]
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    signed = _run(
        settings, "audit", "verify-receipt", str(tmp_path / "receipt.json"), "--data-dir", str(tmp_path / "a")
    )
    assert signed.stdout.startswith("valid: subject 'Ann'")  # whichever server signed it
    assert one.client.post("/collections/lab/identify", json={"embedding": _unit(1)}).json()["decision"] == "unknown"
    assert one.client.get("/collections/lab/subjects/Ann").status_code == 404

    key = one.client.post("/keys", json={"name": "door", "scopes": ["admin"]}).json()
    header = {"authorization": f"Bearer {key['key']}"}
    assert two.client.get("/collections", headers=header).status_code == 200
    assert two.client.get("/collections").status_code == 401  # from the first key on, calls need one
    listed = _run(settings, "keys", "list", "--data-dir", str(tmp_path / "a"))
    assert key["id"] in listed.stdout
    assert one.client.delete(f"/keys/{key['id']}", headers=header).status_code == 200
    assert two.client.get("/collections", headers=header).status_code == 401
    assert one.client.get("/collections", headers=header).status_code == 401

    made = _run(settings, "keys", "create", "cli", "--scope", "admin", "--data-dir", str(tmp_path / "a"))
    header = {"authorization": f"Bearer {made.stdout.strip()}"}
    entries = two.client.get("/audit", headers=header).json()["entries"]
    events = [entry["event"] for entry in entries]
    assert events == [
        *("key.create", "key.revoke", "key.create", "identify", "erase.subject", "identify", "identify", "enrol"),
        *("collection.change", "collection.create"),
    ]
    verified = _run(settings, "audit", "verify", "--data-dir", str(tmp_path / "b"))
    checked = _run(settings, "gallery", "check", "--data-dir", str(tmp_path / "b"))
    assert verified.stdout == f"entries 1 to {len(events)} are as they were written\n"
    assert checked.stdout == f"lab: 0 faces\nwhole: 0 faces, audit log up to entry {len(events)}\n"


def _embedding(seed: int) -> Any:
    return pb.Embedding(values=_unit(seed))


def test_a_database_that_is_gone_is_told_over_both_protocols_and_the_rest_goes_on(
    models_dir: Path, tmp_path: Path, face_photo: bytes
) -> None:
    with running() as cluster:
        url, own = cluster.url(cluster.new_database()), {"authorization": "Bearer key-of-the-settings"}
        settings = {"models_dir": str(models_dir), "gallery_url": url, "api_key": "key-of-the-settings"}
        with live_server(tmp_path / "data", **settings) as server:
            server.client.headers.update(own)
            assert server.client.put("/collections/lab", json={"purpose": "test"}).status_code == 201
            key = server.client.post("/keys", json={"name": "all", "scopes": ["admin"]}).json()
            server.client.headers["authorization"] = f"Bearer {key['key']}"
            cluster.stop()

            answer = server.client.post("/collections/lab/identify", json={"embedding": _unit(1)})
            metadata = (("authorization", f"Bearer {key['key']}"),)
            with pytest.raises(grpc.RpcError) as refused:
                server.gallery.GetCollection(pb.GetCollectionRequest(name="lab"), metadata=metadata)

            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gallery_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert "127.0.0.1" not in answer.text
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert ("error-code", "gallery_unavailable") in [tuple(each) for each in refused.value.trailing_metadata()]
            assert server.client.get("/health/live").status_code == 200
            for path, images in (("/embed", ("image",)), ("/verify", ("image_a", "image_b"))):
                photos = dict.fromkeys(images, face_photo)
                assert server.client.post(path, files=photos, headers=own).status_code == 200
                wait_until(lambda p=path, f=photos: server.client.post(p, files=f).status_code == 503)

            cluster.start()
            wait_until(lambda: server.client.get("/collections/lab").status_code == 200)
            assert server.client.post("/embed", files={"image": face_photo}).status_code == 200
            assert server.client.post("/collections/lab/identify", json={"embedding": _unit(1)}).status_code == 200
            events = [entry["event"] for entry in server.client.get("/audit").json()["entries"]]
            assert events[:2] == ["identify", "verify"]  # what was decided meanwhile, too


def test_another_master_key_and_a_database_that_is_not_there_are_told_at_start_in_one_line(
    settings: dict[str, str], tmp_path: Path
) -> None:
    assert _run(settings, "keys", "list", "--data-dir", str(tmp_path / "a")).returncode == 0
    other = {name: value for name, value in settings.items() if name != "master_key_file"}
    nowhere = {**settings, "gallery_url": "postgresql://127.0.0.1:1/x"}

    for wrong, text in ((other, "another master key"), (nowhere, "cannot be reached")):
        refused = _run(wrong, "serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "c"))
        assert refused.returncode == 2
        assert text in refused.stderr.splitlines()[-1]
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [("backup", "x.tar"), ("restore", "x.tar"), ("gallery", "accept-loss"), ("audit", "seal")],
)
def test_commands_for_files_say_what_to_use_instead(
    settings: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    refused = _run(settings, *arguments, "--data-dir", str(tmp_path / "a"))

    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: gallery_url is set, and this is for a gallery in files: ")
    assert refused.stderr.count("\n") == 1


def test_a_server_without_the_driver_says_how_to_get_it(settings: dict[str, str], tmp_path: Path) -> None:
    script = "import sys; sys.modules['psycopg'] = None; from service.__main__ import main; main()"
    refused = subprocess.run(
        [sys.executable, "-c", script, "keys", "list", "--data-dir", str(tmp_path / "a")],
        capture_output=True,
        text=True,
        env=environment(**settings),
        cwd=ROOT,
        check=False,
    )

    assert refused.returncode == 2
    assert "pip install 'facesphere[postgres]'" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("gallery_url", "mysql://x/y"), ("gallery_url", "faces"), ("gallery_replica_url", "postgresql://x/y")],
)
def test_a_url_of_another_kind_or_a_replica_of_nothing_is_refused(name: str, value: str, tmp_path: Path) -> None:
    refused = _run({name: value}, "keys", "list", "--data-dir", str(tmp_path))

    assert refused.returncode == 2
    assert name in refused.stderr
    assert value not in refused.stderr
