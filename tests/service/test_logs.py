"""The log: lines or JSON, whose request it is, and what is never in it."""

import base64
import json
import subprocess
import sys
from pathlib import Path

from live_server import live_server

_SAYS = """
import logging, contextvars
from service.logs import belongs_to, log_to_stderr
log_to_stderr("info", "json")
log = logging.getLogger("facesphere.test")
def call():
    belongs_to("r-1")
    try:
        raise ValueError("told")
    except ValueError:
        log.exception("failed %s", "twice")
contextvars.copy_context().run(call)
log.info("after")
log.debug("not asked for")
"""


def test_each_line_is_an_object_with_the_request_that_it_is_about() -> None:
    run = subprocess.run([sys.executable, "-c", _SAYS], capture_output=True, text=True, check=True)
    failed, after = map(json.loads, run.stderr.splitlines())

    assert {name: failed[name] for name in ("message", "level", "logger", "request_id")} == {
        "message": "failed twice",
        "level": "error",
        "logger": "facesphere.test",
        "request_id": "r-1",
    }
    assert "ValueError: told" in failed["exception"]
    assert failed["timestamp"].endswith("Z")
    assert after["message"] == "after"
    assert "request_id" not in after


def test_a_server_logs_objects_and_in_them_no_image_no_vector_and_no_key(
    models_dir: Path, tmp_path: Path, face_photo: bytes
) -> None:
    key = "a-key-of-their-own-0123456789"
    settings = {"log_format": "json", "log_level": "debug", "api_key": key}
    with live_server(tmp_path, models_dir=str(models_dir), **settings) as running:
        running.client.headers["authorization"] = f"Bearer {key}"
        image = base64.b64encode(face_photo).decode()
        answer = running.client.post("/embed?encoding=base64", files={"image": face_photo}).json()
        vector = answer["faces"][0]["embedding"]
        running.client.post("/verify", json={"a": {"image": image}, "b": {"image": image[:1000]}})
        running.client.get("/models", headers={"authorization": f"Bearer {key}x"})
        assert running.stop() == 0

    assert running.log
    for line in running.log:
        assert {"message", "level", "timestamp", "logger"} <= set(json.loads(line)), line
        assert not any(secret in line for secret in (key, image[200:260], vector[:40]))
