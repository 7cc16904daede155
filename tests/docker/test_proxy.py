"""The proxy of profile `scale`: a real HAProxy with docker/haproxy.cfg before two real servers."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from live_server import LiveServer, live_server, wait_until
from photos import ROOT

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not on this machine")
CONFIG = (ROOT / "docker" / "haproxy.cfg").read_text()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _config_for(servers: list[LiveServer], rest: int, rpc: int) -> str:
    """The file itself, with servers named by address where Docker's name server would have found them."""
    text = re.sub(r"^resolvers docker\n(?: .*\n)*", "", CONFIG, flags=re.M).replace(" resolvers docker", "")
    text = text.replace("bind :8000", f"bind 127.0.0.1:{rest}").replace("bind :50051", f"bind 127.0.0.1:{rpc}")
    for name, options in re.findall(r"server-template (\w+) \d+ server:\d+(.*)", text):
        lines = []
        for number, server in enumerate(servers):
            http_port = server.http.rpartition(":")[2]
            address = server.grpc if name == "grpc" else server.http.removeprefix("http://")
            lines.append(f"server {name}{number} {address}{options} port {http_port}")
        text = re.sub(rf"server-template {name} .*", "\n    ".join(lines), text)
    assert "server-template" not in text
    return text


@pytest.fixture
def two_servers(models_dir: Path, tmp_path: Path) -> Iterator[list[LiveServer]]:
    with (
        live_server(tmp_path / "a", models_dir=str(models_dir)) as one,
        live_server(tmp_path / "b", models_dir=str(models_dir)) as two,
    ):
        yield [one, two]


def test_haproxy_accepts_the_file() -> None:
    subprocess.run(["haproxy", "-c", "-f", ROOT / "docker" / "haproxy.cfg"], check=True, capture_output=True)


@pytest.mark.slow
def test_both_protocols_reach_both_servers_and_one_that_stops_is_left_out(
    two_servers: list[LiveServer], face_photo: bytes, tmp_path: Path
) -> None:
    rest, rpc = _free_port(), _free_port()
    (tmp_path / "haproxy.cfg").write_text(_config_for(two_servers, rest, rpc))
    proxy = subprocess.Popen(["haproxy", "-f", tmp_path / "haproxy.cfg"], stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}", timeout=30) as client:
            wait_until(lambda: _answers(client))
            for _ in range(8):
                assert len(client.post("/embed", files={"image": face_photo}).json()["faces"]) == 1
            for _ in range(4):
                with grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
                    faces = pb_grpc.FaceEmbeddingStub(channel)
                    assert len(faces.Embed(pb.EmbedRequest(image=face_photo), timeout=30).faces) == 1
                    stream = faces.EmbedStream(
                        iter([pb.EmbedStreamRequest(id="1", request=pb.EmbedRequest(image=face_photo))]), timeout=30
                    )
                    assert [each.id for each in stream] == ["1"]
            for server in two_servers:
                text = server.client.get("/metrics").text
                for route in ('protocol="rest",route="/embed"', 'protocol="grpc",route="Embed'):
                    assert re.search(rf"^facesphere_requests_total{{.*{route}.*}} [1-9]", text, re.M), route

            assert two_servers[0].stop() == 0
            wait_until(lambda: all(_answers(client) for _ in range(4)))
            assert all(client.post("/embed", files={"image": face_photo}).status_code == 200 for _ in range(8))
    finally:
        proxy.kill()
        proxy.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.HTTPError:
        return False
