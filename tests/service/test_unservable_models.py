"""A promoted model that cannot decide as servers do: refused where it is promoted, and no server is without a model."""

import time
from pathlib import Path
from typing import Any

import pytest
from activation import NEW, OLD, enrol, found, moved, photo, put, two_models
from click.testing import CliRunner, Result
from live_server import live_server, wait_until

from models.bundle import Manifest
from models.registry import Registry
from service.__main__ import main
from service.activation import LOOK_EVERY_S


@pytest.fixture
def data(models_dir: Path, tmp_path: Path) -> Path:
    """A data folder whose registry has both models."""
    two_models(models_dir, tmp_path / "data" / "models")
    return tmp_path / "data"


def _calibrated(data: Path, down_to: float | None) -> Manifest:
    """NEW as it would be with fewer pairs, or with none; as it was before."""
    registry = Registry(data / "models")
    before = registry.manifest(NEW)
    calibration: Any = None
    if down_to is not None:
        assert before.calibration is not None
        points = tuple(each for each in before.calibration.points if each.fmr >= down_to)
        calibration = before.calibration.model_copy(update={"points": points, "tail": None})
    registry.replace_manifest(before.model_copy(update={"calibration": calibration}))
    return before


def _run(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments, "--data-dir", str(data)])


@pytest.mark.parametrize(("down_to", "says"), [(5e-3, "outside what this model is"), (None, "calibrate")])
def test_a_model_that_servers_could_not_decide_with_is_not_promoted_on_the_command_line(
    data: Path, down_to: float | None, says: str
) -> None:
    _calibrated(data, down_to)

    done = _run(data, "promote", NEW)

    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert Registry(data / "models").champion("embedder") == OLD


def test_a_server_starts_with_the_model_before_and_follows_once_the_promoted_one_is_repaired(data: Path) -> None:
    whole = _calibrated(data, 5e-3)
    with live_server(data) as running:
        put(running.client, "lab")
        assert enrol(running.client, "lab", 1).status_code == 201
    Registry(data / "models").promote(NEW)  # past whoever would have refused it

    with live_server(data) as running:
        wait_until(lambda: running.client.get("/jobs").json()["jobs"] != [])
        (job,) = running.client.get("/jobs").json()["jobs"]
        assert (job["kind"], job["state"]) == ("follow", "failed")
        assert "outside what this model is calibrated for" in job["error"]
        assert found(running.client, "lab", 1) == OLD
        assert any("cannot be served" in line for line in running.log)
    Registry(data / "models").replace_manifest(whole)

    with live_server(data) as running:
        wait_until(lambda: running.client.get("/collections/lab").json()["model"]["id"] == NEW)
        job = running.client.get("/jobs").json()["jobs"][0]
        wait_until(lambda: running.client.get(f"/jobs/{job['id']}").json()["state"] == "done")
        assert moved(running.client.get(f"/jobs/{job['id']}").json())["lab"]["state"] == "switched"


def test_a_default_model_that_loses_its_calibration_goes_on_with_the_one_it_had(data: Path) -> None:
    Registry(data / "models").promote(NEW)
    with live_server(data) as running:
        put(running.client, "lab")
        assert enrol(running.client, "lab", 1).status_code == 201

        _calibrated(data, None)
        time.sleep(2 * LOOK_EVERY_S)

        pair = {"image_a": photo(1), "image_b": photo(2)}
        answer = running.client.post("/verify", files=pair)
        assert (answer.status_code, answer.json()["model"]["id"]) == (200, NEW), answer.text
