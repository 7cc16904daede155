"""Start, access, limits, overload and stop of a real server process."""

import concurrent.futures
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from live_server import LiveServer, command, environment, live_server, wait_until
from photos import astronaut, encode

from service import app
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb

KEY = "0123456789abcdef0123456789abcdef"
BEARER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def locked(models_dir: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A server with a key, reachable by others, with small limits."""
    with live_server(
        tmp_path_factory.mktemp("data"),
        "--host",
        "0.0.0.0",
        models_dir=str(models_dir),
        api_key=KEY,
        max_body_bytes=str(2**20),
    ) as running:
        running.http = running.http.replace("0.0.0.0", "127.0.0.1")
        running.client.base_url = httpx.URL(running.http)
        yield running


def _fails(tmp_path: Path, models_dir: Path, *arguments: str, **settings: str) -> str:
    """Start a server that must not start, and return what it says."""
    run = subprocess.run(
        command("serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "d"), *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(models_dir=str(models_dir), log_level="error", **settings),
    )
    assert run.returncode != 0
    assert run.stdout == ""
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_health_answers_without_a_key_and_everything_else_needs_it(locked: LiveServer, face_photo: bytes) -> None:
    document = locked.client.get("/openapi.json").json()

    assert locked.client.get("/health/live").status_code == 200
    assert locked.client.get("/health/ready").json() == {"status": "ready"}
    for path, operations in document["paths"].items():
        for method in operations:
            if not path.startswith("/health"):
                answer = locked.client.request(method, path.replace("{", "").replace("}", ""))
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "unauthenticated"
                assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.client.post("/detect", files={"image": face_photo}, headers=BEARER).status_code == 200
    assert locked.client.get("/metrics").status_code == 401


def test_every_rpc_needs_the_key(locked: LiveServer) -> None:
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            kind = ("stream" if method.client_streaming else "unary") + "_stream" * method.server_streaming
            kind = kind if method.server_streaming else kind + "_unary"
            call = getattr(locked.channel, kind)(path)
            result = call.with_call if kind == "unary_unary" else call
            with pytest.raises(grpc.RpcError) as refused:
                list(result(iter([b""]) if method.client_streaming else b"", timeout=20))
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, path
            assert ("error-code", "unauthenticated") in refused.value.trailing_metadata()


def test_the_key_opens_grpc(locked: LiveServer) -> None:
    metadata = [("authorization", f"Bearer {KEY}")]

    answer = locked.gallery.ListCollections(pb.ListCollectionsRequest(), metadata=metadata)

    assert list(answer.collections) == []


@pytest.mark.parametrize("header", ["Bearer wrong-key-wrong-key", KEY, f"Basic {KEY}", "Bearer", "Bearer é" * 20])
def test_a_wrong_key_is_refused(locked: LiveServer, header: str) -> None:
    answer = locked.client.get("/models", headers={"authorization": header.encode()})

    assert answer.status_code == 401


def test_the_key_never_reaches_the_log(locked: LiveServer) -> None:
    locked.client.get("/models", headers=BEARER)

    assert KEY not in "".join(locked.log)


def test_a_body_over_the_limit_is_refused_before_it_is_read(locked: LiveServer) -> None:
    stated = locked.client.post("/detect", content=bytes(2**20 + 1), headers=BEARER)
    chunks = (bytes(2**16) for _ in range(40))
    streamed = locked.client.post("/detect", content=chunks, headers={**BEARER, "content-type": "image/png"})

    assert (stated.status_code, streamed.status_code) == (413, 413)
    assert streamed.json()["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_without_a_key_only_this_machine_is_served(tmp_path: Path, models_dir: Path, host: str) -> None:
    message = _fails(tmp_path, models_dir, "--host", host)

    assert host in message
    assert "FACESPHERE_API_KEY" in message
    assert "facesphere keys create" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost"])
def test_an_address_of_this_machine_needs_no_key(tmp_path: Path, models_dir: Path, host: str) -> None:
    with live_server(tmp_path / "data", "--host", host, models_dir=str(models_dir)) as server:
        assert server.client.get("/models").status_code == 200


def test_a_key_of_the_command_line_opens_the_server_to_others_and_closes_it_to_everybody_without(
    tmp_path: Path, models_dir: Path
) -> None:
    made = subprocess.run(
        command("keys", "create", "door", "--scope", "embed", "--data-dir", str(tmp_path / "data")),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    with live_server(tmp_path / "data", "--host", "0.0.0.0", models_dir=str(models_dir)) as server:
        address = server.http.replace("0.0.0.0", "127.0.0.1")
        key = {"authorization": f"Bearer {made.stdout.strip()}"}

        assert httpx.get(f"{address}/models", headers=key).status_code == 200
        assert httpx.get(f"{address}/models").status_code == 401

        key_id = made.stderr.partition(":")[0]
        arguments = ("keys", "revoke", key_id, "--data-dir", str(tmp_path / "data"))
        subprocess.run(command(*arguments), env=environment(), check=True, capture_output=True)
        assert httpx.get(f"{address}/models", headers=key).status_code == 401


@pytest.mark.parametrize(
    ("arguments", "settings", "word"),
    [
        (("--model", "missing"), {}, "missing"),
        (("--model", "yunet-2023mar"), {}, "detector"),
        (("--device", "cuda"), {}, "cuda"),
        ((), {"detector_device": "cuda"}, "cuda"),
        (("--port", "99999"), {}, "port"),
        (("--workers", "0"), {}, "workers"),
        ((), {"prot": "80"}, "FACESPHERE_PROT"),
        ((), {"api_key": "short"}, "api_key"),
        ((), {"target_fmr": "2"}, "target_fmr"),
        ((), {"target_fmr": "1e-30"}, "target_fmr"),
    ],
)
def test_a_server_that_cannot_do_what_it_is_told_does_not_start(
    tmp_path: Path, models_dir: Path, arguments: tuple[str, ...], settings: dict[str, str], word: str
) -> None:
    assert word in _fails(tmp_path, models_dir, *arguments, **settings)


def test_a_taken_port_is_told_in_one_line(tmp_path: Path, models_dir: Path, server: LiveServer) -> None:
    http_port, grpc_port = (address.rpartition(":")[2] for address in (server.http, server.grpc))

    assert http_port in _fails(tmp_path, models_dir, "--port", http_port)
    assert grpc_port in _fails(tmp_path, models_dir, "--grpc-port", grpc_port)


def test_a_second_server_on_the_same_data_does_not_start(tmp_path: Path, models_dir: Path) -> None:
    with live_server(tmp_path / "d", models_dir=str(models_dir)):
        assert "in use by another process" in _fails(tmp_path, models_dir)


def test_damaged_data_are_told_in_one_line(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "gallery.sqlite3").write_bytes(b"this is no database" * 1000)

    assert "gallery" in _fails(tmp_path, models_dir)


def test_other_sites_and_other_names_are_kept_out(server: LiveServer, face_photo: bytes) -> None:
    files = {"image": face_photo}
    foreign = server.client.post("/detect", files=files, headers={"origin": "https://evil.example"})
    rebound = server.client.post("/detect", files=files, headers={"host": "evil.example:8000"})
    own = server.client.post("/detect", files=files, headers={"origin": server.http})

    for malformed in ("http://[", "http://[x]:y", "null", ""):
        answer = server.client.post("/detect", files=files, headers={"origin": malformed})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied"), malformed
    assert "Traceback" not in "".join(server.log)
    assert (foreign.status_code, rebound.status_code, own.status_code) == (403, 403, 200)
    assert foreign.json()["error"]["code"] == "permission_denied"


def test_answers_are_not_held_back_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY on accepted connections only where the listening socket names its protocol."""
    with app.listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_grpc_health_and_reflection_answer(server: LiveServer) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", "face_embedding.v1.FaceEmbedding", "face_embedding.v1.Gallery"):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
        )
    ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol="face_embedding.v1.Gallery")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(server.channel).ServerReflectionInfo(iter([ask]))
    file = FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
    assert file.package == "face_embedding.v1"


def test_the_ready_line_names_both_addresses(server: LiveServer) -> None:
    host, port = server.grpc.split(":")
    with socket.create_connection((host, int(port))):
        pass
    assert httpx.get(f"{server.http}/health/live").json() == {"status": "live"}


def test_an_upload_that_never_ends_is_ended(models_dir: Path, tmp_path: Path) -> None:
    with live_server(tmp_path, models_dir=str(models_dir), request_timeout_s="1") as running:
        host, port = running.http.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(
                b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nx"
            )
            answer = slow.recv(4096)
        assert b"504" in answer.splitlines()[0]


def test_uploads_together_are_bounded(models_dir: Path, tmp_path: Path) -> None:
    limit = 2**20
    with live_server(tmp_path, models_dir=str(models_dir), max_pending_bytes=str(limit)) as running:
        host, port = running.http.removeprefix("http://").split(":")
        head = f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: {limit}\r\n\r\n"
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head.encode() + bytes(limit - 1))
            time.sleep(0.5)  # whichever body comes to the limit last is refused: let this one be there first
            answers = []
            wait_until(lambda: answers.append(running.client.post("/detect", content=bytes(4096))) or _refused(answers))
        # The upload that held the room has gone without an answer: there is room again, and nothing in the log.
        wait_until(lambda: running.client.post("/detect", content=bytes(4096)).status_code == 422)

        assert answers[-1].json()["error"]["code"] == "overloaded"
    assert "Traceback" not in "".join(running.log)


def _refused(answers: list[httpx.Response]) -> bool:
    return answers[-1].status_code == 429


def test_overload_is_an_answer_and_passes(models_dir: Path, tmp_path: Path) -> None:
    photo = encode(np.tile(astronaut(), (4, 4, 1)))
    with live_server(tmp_path, "--threads", "1", models_dir=str(models_dir), max_queue="2") as running:
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: running.client.post("/detect", files={"image": photo}), range(24)))
        codes = {answer.status_code for answer in answers}
        after = running.client.post("/detect", files={"image": photo})

    assert codes == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert after.status_code == 200


def test_a_caller_who_hangs_up_frees_its_place(models_dir: Path, tmp_path: Path) -> None:
    photo = encode(np.tile(astronaut(), (4, 4, 1)))
    with live_server(tmp_path, "--threads", "1", models_dir=str(models_dir), max_queue="4") as running:
        host, port = running.http.removeprefix("http://").split(":")
        head = (
            f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(photo)}\r\n\r\n"
        )
        for _ in range(10):
            with socket.create_connection((host, int(port))) as impatient:
                impatient.sendall(head.encode() + photo)

        def all_gone() -> bool:
            text = running.client.get("/metrics").text
            ended = re.findall(
                r'^facesphere_requests_total\{code="499".*route="/detect".*\} (\S+)$', text, re.MULTILINE
            )
            return sum(map(float, ended)) == 10 and "facesphere_photos_pending 0.0" in text

        wait_until(all_gone)  # not only idle, which a server is that has not yet heard of them
        assert running.client.post("/detect", files={"image": photo}).status_code == 200


def test_a_deadline_cancels_queued_work(models_dir: Path, tmp_path: Path) -> None:
    photo = encode(np.tile(astronaut(), (4, 4, 1)))
    with live_server(tmp_path, "--threads", "1", models_dir=str(models_dir)) as running:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:

            def call(_: int) -> grpc.StatusCode | None:
                try:
                    running.faces.Detect(pb.DetectRequest(image=photo), timeout=0.2)
                except grpc.RpcError as error:
                    return error.code()
                return None

            codes = set(pool.map(call, range(20)))
        began = time.monotonic()
        running.faces.Detect(pb.DetectRequest(image=photo))

    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    # Twenty photos that nobody waits for any more would take longer than this by far.
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_was_accepted(models_dir: Path, tmp_path: Path, number: int) -> None:
    photo = encode(np.tile(astronaut(), (3, 3, 1)), compress_level=1)
    with live_server(tmp_path, "--threads", "1", models_dir=str(models_dir)) as running:

        def rest() -> int:
            answer = httpx.post(f"{running.http}/embed", files={"image": photo}, timeout=60)
            return len(answer.json()["faces"])

        def rpc() -> int:
            return len(running.faces.Embed(pb.EmbedRequest(image=photo)).faces)

        def all_accepted() -> bool:
            text = running.client.get("/metrics").text
            counted = re.findall(r"^facesphere_requests_(?:open{|total{.*(?:/embed|Embed)).* ([0-9.]+)$", text, re.M)
            return sum(map(float, counted)) >= 7  # six, and the one that asks

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(call) for call in (rest, rpc) * 3]
            wait_until(all_accepted)
            running.process.send_signal(number)
            assert [answer.result() for answer in answers] == [9] * 6
        assert running.process.wait(timeout=30) == 0
        assert "Traceback" not in "".join(running.log)


def test_calls_over_grpc_are_finished_though_http_is_idle(models_dir: Path, tmp_path: Path) -> None:
    photo = encode(np.tile(astronaut(), (3, 3, 1)), compress_level=1)
    with live_server(tmp_path, "--threads", "1", models_dir=str(models_dir)) as running:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(running.faces.Embed, pb.EmbedRequest(image=photo)) for _ in range(3)]
            wait_until(lambda: "facesphere_photos_pending 3.0" in running.client.get("/metrics").text)
            running.client.close()
            running.process.send_signal(signal.SIGTERM)
            assert [len(call.result().faces) for call in calls] == [9] * 3
        assert running.process.wait(timeout=30) == 0


def test_a_stop_does_not_wait_for_half_an_upload_and_a_second_signal_changes_nothing(
    models_dir: Path, tmp_path: Path
) -> None:
    with live_server(tmp_path, models_dir=str(models_dir)) as running:
        host, port = running.http.removeprefix("http://").split(":")
        head = f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(head.encode() + b"x")
            wait_until(lambda: 'facesphere_requests_open{protocol="rest"} 2.0' in running.client.get("/metrics").text)
            running.process.send_signal(signal.SIGTERM)
            answer = slow.recv(4096)
            running.process.send_signal(signal.SIGTERM)
        assert b"503" in answer.splitlines()[0]
        assert running.process.wait(timeout=10) == 0
        assert "Traceback" not in "".join(running.log)


@pytest.mark.slow
def test_a_connection_that_says_nothing_is_closed(server: LiveServer) -> None:
    host, port = server.http.removeprefix("http://").split(":")
    for said in (b"", b"GET /health/live HT", b"GET /health/live HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection((host, int(port)), timeout=20) as quiet:
            quiet.sendall(said)
            assert quiet.recv(100) == b""


def test_nothing_but_the_ready_line_is_on_stdout(models_dir: Path, tmp_path: Path) -> None:
    with live_server(tmp_path, models_dir=str(models_dir)) as running:
        running.client.get("/nowhere")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.stdout is not None
        assert running.process.stdout.read() == ""
        assert running.process.wait(timeout=30) == 0


def test_requests_on_a_connection_that_is_kept_open_have_a_deadline_each(models_dir: Path, tmp_path: Path) -> None:
    """Reading a body that is large pauses and goes on within its request, and the next one comes in from there."""
    photo = encode(np.random.default_rng(1).integers(0, 256, (640, 640, 3), np.uint8), "JPEG", quality=95)
    assert len(photo) > 2**18
    with live_server(tmp_path / "data", models_dir=str(models_dir), request_timeout_s="2") as server:
        for _ in range(10):
            assert (
                server.client.post("/detect", content=photo, headers={"content-type": "image/jpeg"}).status_code == 200
            )
            time.sleep(0.3)
