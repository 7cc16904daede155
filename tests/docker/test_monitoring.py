"""What is measured, what is documented, and that a real Prometheus reads both."""

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from live_server import LiveServer, command, environment, live_server, wait_until
from photos import ROOT

from service.metrics import Metrics

MONITORING = ROOT / "docker" / "monitoring"
BOARD = json.loads((MONITORING / "boards" / "facesphere.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
ALERTS = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
needs_prometheus = pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not on this machine")


def _measured(server: LiveServer) -> set[str]:
    text: str = server.client.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (facesphere_\w+) (\w+)$", text, re.M))
    return {name for name in kinds if not name.endswith("_created")}


def test_every_metric_is_documented_and_every_documented_one_is_there(server: LiveServer) -> None:
    documented = re.findall(r"^\| `(facesphere_\w+)` \|", (ROOT / "docs" / "deployment.md").read_text(), re.M)

    assert set(documented) == _measured(server)


@pytest.mark.parametrize("query", [*QUERIES, *ALERTS])
def test_boards_and_alerts_ask_for_metrics_that_there_are(query: str, server: LiveServer) -> None:
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"facesphere_\w+", query)}

    assert asked <= _measured(server)


def test_a_photo_a_decision_and_an_enrolment_are_counted(models_dir: Path, tmp_path: Path, face_photo: bytes) -> None:
    with live_server(tmp_path, models_dir=str(models_dir)) as running:
        client = running.client
        client.post("/verify", files={"image_a": face_photo, "image_b": face_photo})
        client.put("/collections/lab", json={"purpose": "test"})
        client.post("/collections/lab/subjects/Ann/faces", files={"images": face_photo})
        assert client.post("/collections/lab/identify", files={"image": face_photo}).json()["decision"] == "known"
        text = client.get("/metrics").text

    for line in (
        'facesphere_stage_seconds_count{stage="photo"} 4.0',
        'facesphere_stage_seconds_count{stage="search"} 1.0',
        "facesphere_photo_faces_sum 4.0",
        "facesphere_batch_faces_sum 4.0",
        'facesphere_similarity_count{decision="match",kind="verify"} 1.0',
        'facesphere_similarity_count{decision="match",kind="identify"} 1.0',
        'facesphere_model_info{contract_id="73de7c171ce184e7",device="cpu",id="sface-2021dec",kind="embedder"} 1.0',
    ):
        assert line in text, line
    assert "Ann" not in text
    assert "lab" not in re.findall(r'"([^"]*)"', text)


def test_a_model_that_serves_takes_the_place_of_the_one_of_its_kind() -> None:
    metrics = Metrics()
    metrics.serves("embedder", "a", "1", "cpu")
    metrics.serves("detector", "d", "2", "cpu")
    metrics.serves("embedder", "b", "3", "cpu")

    (family,) = [each for each in metrics.registry.collect() if each.name == "facesphere_model_info"]
    assert {each.labels["id"] for each in family.samples} == {"b", "d"}


@needs_prometheus
def test_promtool_accepts_the_alerts_and_the_configuration() -> None:
    for arguments in (["check", "rules", "alerts.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]):
        subprocess.run(["promtool", *arguments], cwd=MONITORING, check=True, capture_output=True)


@needs_prometheus
@pytest.mark.slow
def test_a_real_prometheus_scrapes_a_server_by_a_key_of_its_own_and_answers_the_boards_queries(
    models_dir: Path, tmp_path: Path, face_photo: bytes
) -> None:
    env = environment(data_dir=str(tmp_path / "data"))
    make = command("keys", "create", "prometheus", "--scope", "metrics")
    key = subprocess.run(make, env=env, check=True, capture_output=True, text=True).stdout
    (tmp_path / "metrics.key").write_text(key)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with live_server(tmp_path / "data", models_dir=str(models_dir)) as running:
        refused = running.client.post(
            "/detect", files={"image": face_photo}, headers={"authorization": f"Bearer {key.strip()}"}
        )
        assert refused.status_code == 403
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        (job,) = config["scrape_configs"]
        job.pop("dns_sd_configs")
        job["static_configs"] = [{"targets": [running.http.removeprefix("http://")]}]
        job["authorization"]["credentials_file"] = str(tmp_path / "metrics.key")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(MONITORING / "alerts.yml", tmp_path)
        prometheus = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
                wait_until(lambda: _value(client, 'up{job="facesphere"}') == "1")
                wait_until(lambda: _value(client, 'facesphere_model_info{kind="embedder"}') == "1")
                for query in (*QUERIES, *ALERTS):
                    answer = client.get("/query", params={"query": query.replace("$__rate_interval", "1m")}).json()
                    assert answer["status"] == "success", (query, answer)
                rules = client.get("/rules").json()["data"]["groups"][0]["rules"]
                assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        finally:
            prometheus.kill()
            prometheus.wait()


def _value(client: httpx.Client, query: str) -> str | None:
    try:
        answer = client.get("/query", params={"query": query}).raise_for_status()  # 503 until it is ready
    except httpx.HTTPError:
        return None
    found = answer.json()["data"]["result"]
    return found[0]["value"][1] if found else None
