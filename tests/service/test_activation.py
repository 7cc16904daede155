"""A change of model in a running server: collections follow or stay, nobody is lost, and no two models are mixed."""

import base64
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from activation import NEW, OLD, activate, ended, enrol, found, identify, moved, photo, put, two_models
from click.testing import CliRunner
from galleries import keys_of
from live_server import LiveServer, live_server, wait_until

from models.registry import Registry
from service.__main__ import main
from service.activation import LOOK_EVERY_S
from service.gallery.embedded import EmbeddedGallery

PEOPLE = range(6)


@pytest.fixture
def data(models_dir: Path, tmp_path: Path) -> Path:
    """A data folder whose registry has both models."""
    two_models(models_dir, tmp_path / "data" / "models")
    return tmp_path / "data"


@pytest.fixture
def server(data: Path) -> Iterator[LiveServer]:
    """A server with people in `with-crops` and in `without`."""
    with live_server(data) as running:
        for name, crops in (("with-crops", True), ("without", False)):
            put(running.client, name, crops)
            for number in PEOPLE:
                assert enrol(running.client, name, number).status_code == 201
        yield running


def _default(client: httpx.Client) -> str:
    answer = client.post("/embed", content=photo(0), headers={"content-type": "image/png"})
    name: str = answer.json()["model"]["id"]
    return name


def test_a_collection_with_crops_follows_and_one_without_stays_on_its_model(server: LiveServer) -> None:
    client = server.client

    job = activate(client, NEW)

    assert (job["state"], job["progress"], job["error"], job["kind"]) == ("done", 1.0, None, "activate")
    there = moved(job)
    assert (there["with-crops"]["state"], there["with-crops"]["model"]) == ("switched", NEW)
    assert there["with-crops"]["agreement"]["faces"] == len(PEOPLE)
    assert there["with-crops"]["agreement"]["pairs"] == 15
    assert there["without"] == {
        **there["without"],
        "state": "stays",
        "model": OLD,
        "faces": len(PEOPLE),
        "without_crop": len(PEOPLE),
    }
    assert [found(client, "with-crops", number) for number in PEOPLE] == [NEW] * len(PEOPLE)
    assert [found(client, "without", number) for number in PEOPLE] == [OLD] * len(PEOPLE)
    assert client.get("/collections/with-crops").json()["model"]["id"] == NEW
    assert client.get("/collections/without").json()["model"]["id"] == OLD
    assert _default(client) == NEW
    for name, model in (("with-crops", NEW), ("without", OLD)):  # enrolment and 1:1 go by the same model
        assert enrol(client, name, 50).status_code == 201
        assert found(client, name, 50) == model
        answer = client.post(
            f"/collections/{name}/subjects/person-50/verify",
            json={"image": base64.b64encode(photo(50)).decode(), "threshold": 0.5},
        ).json()
        assert (answer["model"]["id"], round(answer["similarity"], 3)) == (model, 1.0)
    events = [(entry["event"], entry["actor"]) for entry in client.get("/audit").json()["entries"]]
    assert ("model.activate", "local") in events
    assert ("collection.model", "local") in events


def test_a_rollback_goes_back_with_everybody_who_was_enrolled_since(server: LiveServer) -> None:
    client = server.client
    activate(client, NEW)
    assert enrol(client, "with-crops", 60).status_code == 201

    answer = client.post("/models/rollback")

    assert (answer.status_code, answer.json()["kind"], answer.json()["model_id"]) == (202, "rollback", OLD)
    assert _default(client) == OLD  # at once, before the job is over
    job = ended(client, answer.json()["id"])
    assert (job["state"], moved(job)["with-crops"]["state"]) == ("done", "switched")
    assert [found(client, "with-crops", number) for number in (*PEOPLE, 60)] == [OLD] * 7
    again = client.post("/models/rollback")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


def test_an_embedding_must_say_which_model_made_it_where_there_are_several(server: LiveServer) -> None:
    client = server.client
    embedded = client.post("/embed", content=photo(1), headers={"content-type": "image/png"}).json()
    vector, contract = embedded["faces"][0]["embedding"], embedded["model"]["contract_id"]
    ask = {"embedding": vector, "threshold": 0.5}
    assert client.post("/collections/with-crops/identify", json=ask).status_code == 200

    activate(client, NEW)

    unsaid = client.post("/collections/with-crops/identify", json=ask)
    assert (unsaid.status_code, unsaid.json()["error"]["details"]) == (400, {"field": "contract_id"})
    other = client.post("/collections/with-crops/identify", json={**ask, "contract_id": contract})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "contract_mismatch")
    own = client.post("/collections/without/identify", json={**ask, "contract_id": contract}).json()
    assert own["candidates"][0]["subject"] == "person-1"
    side = {"embedding": vector, "contract_id": contract}
    both = client.post("/verify", json={"a": side, "b": side, "threshold": 0.5}).json()
    assert (both["model"]["id"], round(both["similarity"], 3)) == (OLD, 1.0)


def test_erasing_a_person_erases_their_vectors_under_both_models(server: LiveServer) -> None:
    client = server.client
    before = client.get("/collections/with-crops").json()["model"]["contract_id"]
    activate(client, NEW)
    kept = client.get("/collections/with-crops/subjects/person-2/export").json()["faces"][0]
    assert list(kept["other_embeddings"]) == [before]

    assert client.delete("/collections/with-crops/subjects/person-2").status_code == 200

    ended(client, client.post("/models/rollback").json()["id"])
    subjects = [each["subject"] for each in identify(client, "with-crops", 2).json()["candidates"]]
    assert sorted(subjects) == sorted(f"person-{number}" for number in PEOPLE if number != 2)


def test_a_running_server_follows_what_is_promoted_on_the_command_line(server: LiveServer, data: Path) -> None:
    done = CliRunner().invoke(main, ["models", "activate", NEW, "--data-dir", str(data)])

    assert done.exit_code == 0, done.stderr
    assert f"{NEW} is the embedder now" in done.stdout
    assert "1 stay on their model, 1 switched" in done.stdout
    assert _default(server.client) == NEW
    assert "activate" in CliRunner().invoke(main, ["models", "jobs", "--data-dir", str(data)]).stdout
    job = ended(server.client, server.client.get("/jobs").json()["jobs"][0]["id"])
    assert (job["actor"], job["state"], moved(job)["with-crops"]["state"]) == ("cli", "done", "switched")
    assert [found(server.client, "with-crops", number) for number in PEOPLE] == [NEW] * len(PEOPLE)


def test_a_promotion_without_a_server_is_followed_by_the_next_start(server: LiveServer, data: Path) -> None:
    assert server.stop() == 0
    assert CliRunner().invoke(main, ["models", "promote", NEW, "--data-dir", str(data)]).exit_code == 0

    with live_server(data) as again:
        assert _default(again.client) == NEW
        wait_until(lambda: again.client.get("/jobs").json()["jobs"] != [])
        job = ended(again.client, again.client.get("/jobs").json()["jobs"][0]["id"])
        assert moved(job)["with-crops"]["state"] == "switched"
        assert [found(again.client, "without", number) for number in PEOPLE] == [OLD] * len(PEOPLE)


def test_a_server_serves_every_collection_after_a_restart_as_before(server: LiveServer, data: Path) -> None:
    activate(server.client, NEW)
    assert server.stop() == 0

    with live_server(data) as again:
        assert [found(again.client, "with-crops", number) for number in PEOPLE] == [NEW] * len(PEOPLE)
        assert [found(again.client, "without", number) for number in PEOPLE] == [OLD] * len(PEOPLE)
        embedded = again.client.post("/embed", content=photo(1), headers={"content-type": "image/png"}).json()
        unsaid = {"embedding": embedded["faces"][0]["embedding"], "threshold": 0.5}
        for name in ("with-crops", "without"):  # of two models with vectors of one length
            assert again.client.post(f"/collections/{name}/identify", json=unsaid).status_code == 400
        assert ended(again.client, again.client.post("/models/rollback").json()["id"])["state"] == "done"
        assert [found(again.client, "with-crops", number) for number in PEOPLE] == [OLD] * len(PEOPLE)


def test_servers_that_share_a_registry_follow_a_promotion(models_dir: Path, tmp_path: Path) -> None:
    two_models(models_dir, tmp_path / "models")
    shared = str(tmp_path / "models")
    with live_server(tmp_path / "a", models_dir=shared) as a, live_server(tmp_path / "b", models_dir=shared) as b:
        for each in (a, b):
            put(each.client, "people")
            assert enrol(each.client, "people", 1).status_code == 201

        activate(a.client, NEW)

        wait_until(lambda: b.client.get("/collections/people").json()["model"]["id"] == NEW)
        assert [found(each.client, "people", 1) for each in (a, b)] == [NEW, NEW]
        assert [_default(each.client) for each in (a, b)] == [NEW, NEW]


def _coarser(registry: Registry, model_id: str) -> None:
    """Take from a model what it knows of rates below 9e-4."""
    manifest = registry.manifest(model_id)
    assert manifest.calibration is not None
    points = tuple(each for each in manifest.calibration.points if each.fmr >= 9e-4)
    assert len(points) < len(manifest.calibration.points)
    calibration = manifest.calibration.model_copy(update={"points": points, "tail": None})
    registry.replace_manifest(manifest.model_copy(update={"calibration": calibration}))


def test_a_collection_whose_rate_the_new_model_cannot_meet_stays(server: LiveServer, data: Path) -> None:
    _coarser(Registry(data / "models"), NEW)
    settings = {"purpose": "test", "store_crops": True, "target_fmr": 5e-4}
    assert server.client.put("/collections/with-crops", json=settings).status_code == 200

    there = moved(activate(server.client, NEW))["with-crops"]

    assert (there["state"], there["model"]) == ("stays", OLD)
    assert "0.0005" in there["reason"]
    assert found(server.client, "with-crops", 1) == OLD


def test_a_collection_whose_strangers_the_new_model_cannot_tell_stays(data: Path) -> None:
    _coarser(Registry(data / "models"), NEW)
    with live_server(data, target_fpir="0.001") as running:
        put(running.client, "with-crops")
        put(running.client, "nobody")
        for number in PEOPLE:
            assert enrol(running.client, "with-crops", number).status_code == 201

        there = moved(activate(running.client, NEW))

        assert (there["with-crops"]["state"], there["with-crops"]["model"]) == ("stays", OLD)
        assert there["with-crops"]["reason"]
        assert there["nobody"]["state"] == "switched"
        ask = {"image": base64.b64encode(photo(1)).decode()}
        assert running.client.post("/collections/with-crops/identify", json=ask).json()["decision"] == "known"


def test_a_model_that_is_calibrated_anew_decides_so_in_a_running_server(server: LiveServer, data: Path) -> None:
    registry = Registry(data / "models")
    pair = {"image_a": photo(1), "image_b": photo(2)}
    before = server.client.post("/verify", files=pair).json()["threshold"]
    manifest = registry.manifest(OLD)
    assert manifest.calibration is not None
    points = tuple(each.model_copy(update={"threshold": each.threshold + 0.01}) for each in manifest.calibration.points)
    calibration = manifest.calibration.model_copy(update={"points": points})

    registry.replace_manifest(manifest.model_copy(update={"calibration": calibration}))

    wait_until(lambda: server.client.post("/verify", files=pair).json()["threshold"] != before)
    assert server.client.post("/verify", files=pair).json()["threshold"] == pytest.approx(before + 0.01)
    assert found(server.client, "with-crops", 1) == OLD
    assert server.client.get("/jobs").json() == {"jobs": []}


def test_a_collection_whose_model_is_damaged_says_so_each_time(server: LiveServer, data: Path) -> None:
    activate(server.client, NEW)
    assert server.stop() == 0
    with (data / "models" / "bundles" / OLD / "model.onnx").open("ab") as file:
        file.write(b"\0")

    with live_server(data) as again:
        codes = [identify(again.client, "without", 1).json()["error"]["code"] for _ in range(4)]
        assert codes == ["invalid_bundle"] * 4
        assert found(again.client, "with-crops", 1) == NEW


def test_a_job_that_was_killed_after_a_switch_still_tells_of_it(server: LiveServer, data: Path) -> None:
    told = activate(server.client, NEW)
    assert server.stop() == 0
    with closing(EmbeddedGallery(data, keys_of(data))) as gallery:  # as it is between the switch and the note of it
        job, uid = gallery.jobs.get(told["id"]), gallery.uid("with-crops")
        noted = {**job.result[uid], "state": "switching", "model": OLD}
        gallery.jobs.update(replace(job, state="running", progress=0.5, result={uid: noted}))

    with live_server(data) as again:
        job_again = ended(again.client, told["id"])

        assert job_again["state"] == "done"
        assert moved(job_again) == moved(told)


def test_what_cannot_be_activated_is_refused_and_changes_nothing(server: LiveServer, data: Path) -> None:
    client = server.client
    bundles = data / "models" / "bundles"
    shutil.copytree(bundles / NEW, bundles / "aside")
    with (bundles / NEW / "model.onnx").open("ab") as file:
        file.write(b"\0")

    answers = {name: client.post(f"/models/{name}/activate") for name in (NEW, "nobody", "yunet-2023mar")}

    codes = {name: (each.status_code, each.json()["error"]["code"]) for name, each in answers.items()}
    assert codes[NEW] == (409, "invalid_bundle")
    assert codes["nobody"] == (404, "not_found")
    assert codes["yunet-2023mar"][0] in (404, 409)
    assert client.get("/jobs/nobody").status_code == 404
    assert client.get("/jobs").json() == {"jobs": []}
    assert _default(client) == OLD


def test_a_model_without_calibration_is_not_activated(server: LiveServer, data: Path) -> None:
    registry = Registry(data / "models")
    registry.replace_manifest(registry.manifest(NEW).model_copy(update={"calibration": None}))

    answer = server.client.post(f"/models/{NEW}/activate")

    assert answer.status_code == 400
    assert "facesphere-train calibrate" in answer.json()["error"]["message"]
    assert _default(server.client) == OLD


def test_a_server_that_was_started_with_a_model_by_name_serves_no_other(data: Path) -> None:
    with live_server(data, "--model", OLD) as running:
        answer = running.client.post(f"/models/{NEW}/activate")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert "--model" in answer.json()["error"]["message"]


def test_a_job_that_was_killed_is_gone_on_with_at_the_next_start(server: LiveServer, data: Path) -> None:
    job_id = server.client.post(f"/models/{NEW}/activate").json()["id"]
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.stop()

    with live_server(data) as again:
        job = ended(again.client, job_id)
        assert (job["state"], moved(job)["with-crops"]["state"]) == ("done", "switched")
        assert [found(again.client, "with-crops", number) for number in PEOPLE] == [NEW] * len(PEOPLE)


def test_a_rollback_is_not_undone_by_an_activation_that_was_asked_for_before_it(server: LiveServer) -> None:
    jobs = [server.client.post(f"/models/{NEW}/activate").json()["id"] for _ in range(2)]
    jobs.append(server.client.post("/models/rollback").json()["id"])

    states = [ended(server.client, each)["state"] for each in jobs]

    assert states[2] == "done"
    assert _default(server.client) == OLD
    assert {found(server.client, "with-crops", number) for number in PEOPLE} == {OLD}


def test_a_model_that_is_not_served_is_not_loaded_by_naming_its_contract(server: LiveServer, data: Path) -> None:
    contract = Registry(data / "models").manifest(NEW).contract_id
    side = {"embedding": [1.0] + [0.0] * 127, "contract_id": contract}

    answer = server.client.post("/verify", json={"a": side, "b": side, "threshold": 0.5})

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "contract_mismatch")
    assert {each["id"]: each["loaded"] for each in server.client.get("/models").json()["models"]}[NEW] is False
    side["contract_id"] = "f" * 65
    assert server.client.post("/verify", json={"a": side, "b": side, "threshold": 0.5}).status_code == 400


def test_a_pinned_server_follows_nothing(server: LiveServer, data: Path) -> None:
    assert server.stop() == 0
    with live_server(data, "--model", OLD) as pinned:
        Registry(data / "models").promote(NEW)
        time.sleep(LOOK_EVERY_S + 1)

        assert _default(pinned.client) == OLD
        assert found(pinned.client, "with-crops", 1) == OLD
        assert pinned.client.get("/jobs").json() == {"jobs": []}


def test_a_promoted_model_that_cannot_be_loaded_is_told_once_and_the_one_before_goes_on(
    server: LiveServer, data: Path
) -> None:
    with (data / "models" / "bundles" / NEW / "model.onnx").open("ab") as file:
        file.write(b"\0")
    Registry(data / "models").promote(NEW)

    wait_until(lambda: server.client.get("/jobs").json()["jobs"] != [])

    time.sleep(LOOK_EVERY_S + 1)
    (job,) = server.client.get("/jobs").json()["jobs"]
    assert (job["kind"], job["state"]) == ("follow", "failed")
    assert "has the digest" in job["error"]
    assert _default(server.client) == OLD
    assert found(server.client, "with-crops", 1) == OLD


def test_a_model_in_shadow_is_compared_and_answers_nothing(server: LiveServer) -> None:
    client = server.client
    assert client.get("/models/shadow").status_code == 404
    began = client.post(f"/models/{NEW}/shadow", params={"share": 1}).json()
    assert (began["model_id"], began["share"], began["compared"]) == (NEW, 1.0, 0)

    for number in (1, 2, 3):
        pair = {"image_a": photo(number), "image_b": photo(number + 1)}
        assert client.post("/verify", files=pair).json()["model"]["id"] == OLD
        wait_until(lambda seen=number: client.get("/models/shadow").json()["compared"] == seen)

    found = client.get("/models/shadow").json()
    assert found["same"] + found["flipped_to_match"] + found["flipped_to_non_match"] == 3
    assert found["mean_shift"] != 0
    assert "facesphere_shadow_compared 3.0" in client.get("/metrics").text
    vector = client.post("/embed", content=photo(1), headers={"content-type": "image/png"}).json()
    ask = {"embedding": vector["faces"][0]["embedding"], "threshold": 0.5}
    assert client.post("/collections/without/identify", json=ask).status_code == 200  # not a model that is served
    client.post("/verify", files=pair, params={"threshold": 0.5})  # at a threshold of one model's: nothing to compare
    assert client.delete("/models/shadow").json()["compared"] == 3
    assert client.get("/models/shadow").status_code == 404
    refused = client.post(f"/models/{NEW}/shadow", params={"share": 0})
    assert (refused.status_code, refused.json()["error"]["details"]["field"]) == (400, "share")
