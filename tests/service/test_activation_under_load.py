"""Models change while people are enrolled, looked for and verified, and while the server is killed.

With TORTURE in the environment the counts are those of docs/reliability.md.
"""

import base64
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from activation import NEW, OLD, activate, ended, enrol, found, photo, put, two_models
from live_server import LiveServer, live_server, wait_until

TORTURE = float(os.environ.get("TORTURE", "0"))
SWAPS = max(2, round(200 * TORTURE)) if TORTURE else 4
KILLS = max(2, round(50 * TORTURE)) if TORTURE else 1
STARTED_WITH = 12
pytestmark = pytest.mark.timeout(0 if TORTURE else 240)


class _Traffic:
    """Callers who know what each answer must be."""

    def __init__(self, address: str) -> None:
        self.enrolled = list(range(STARTED_WITH))
        self.wrong: list[str] = []
        self.answers: dict[str, int] = {}
        self.over = threading.Event()
        self._address = address
        self._threads = [
            threading.Thread(target=self._run, args=(each,)) for each in (self._enrol, self._find, self._verify)
        ]

    def __enter__(self) -> "_Traffic":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for each in self._threads:
            each.join()

    def wait_for_one_by(self, model: str) -> None:
        """Until a caller who is answered from now on is answered by this model."""
        before = self.answers.get(model, 0)
        wait_until(lambda: self.answers.get(model, 0) > before or self.wrong)

    def _run(self, step: Callable[[httpx.Client, random.Random], str]) -> None:
        chance = random.Random(0)
        with httpx.Client(base_url=self._address, timeout=60) as client:
            while not self.over.is_set():
                try:
                    model = step(client, chance)
                    self.answers[model] = self.answers.get(model, 0) + 1
                except AssertionError as error:
                    self.wrong.append(str(error))

    def _enrol(self, client: httpx.Client, _: random.Random) -> str:
        number = len(self.enrolled)
        answer = enrol(client, "people", number)
        assert answer.status_code == 201, answer.text
        self.enrolled.append(number)
        time.sleep(0.2)
        return "enrolled"

    def _find(self, client: httpx.Client, chance: random.Random) -> str:
        return found(client, "people", chance.choice(self.enrolled))

    def _verify(self, client: httpx.Client, chance: random.Random) -> str:
        number = chance.choice(self.enrolled)
        answer = client.post(
            f"/collections/people/subjects/person-{number}/verify",
            json={"image": base64.b64encode(photo(number)).decode(), "threshold": 0.95},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["matched"], answer.text
        return str(answer.json()["model"]["id"])


def _begin(server: LiveServer) -> None:
    put(server.client, "people")
    for number in range(STARTED_WITH):
        assert enrol(server.client, "people", number).status_code == 201


def test_nobody_notices_that_the_model_is_changed_and_nobody_is_lost(models_dir: Path, tmp_path: Path) -> None:
    two_models(models_dir, tmp_path / "data" / "models")
    with live_server(tmp_path / "data") as server:
        _begin(server)
        with _Traffic(server.http) as traffic:
            for swap in range(SWAPS):
                if swap % 2 == 0:
                    job = activate(server.client, NEW)
                else:
                    job = ended(server.client, server.client.post("/models/rollback").json()["id"])
                states = [each["state"] for each in job["collections"]]
                assert (job["state"], states) == ("done", ["switched"]), job
                traffic.wait_for_one_by(NEW if swap % 2 == 0 else OLD)
        assert traffic.wrong == []
        for number in traffic.enrolled:
            found(server.client, "people", number)
        assert server.client.get("/collections/people").json()["faces"] == len(traffic.enrolled)
        assert set(traffic.answers) == {"enrolled", OLD, NEW}
    print(f"{SWAPS} changes of the model, answers {traffic.answers}")


def test_a_server_killed_while_it_embeds_anew_leaves_a_collection_on_one_model(
    models_dir: Path, tmp_path: Path
) -> None:
    two_models(models_dir, tmp_path / "data" / "models")
    chance, people, on = random.Random(5), STARTED_WITH, {OLD: 0, NEW: 0}
    with live_server(tmp_path / "data") as server:
        _begin(server)
        server.stop()
    for kill in range(KILLS):
        with live_server(tmp_path / "data") as server:
            for _ in range(8):
                assert enrol(server.client, "people", people).status_code == 201
                people += 1
            target = NEW if server.client.get("/collections/people").json()["model"]["id"] == OLD else OLD
            job_id = server.client.post(f"/models/{target}/activate").json()["id"]
            time.sleep(chance.uniform(0, 0.8))
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            server.stop()
        with live_server(tmp_path / "data") as server:
            models = {found(server.client, "people", number) for number in range(people)}
            assert models <= {OLD, NEW}
            assert ended(server.client, job_id)["state"] == "done"
            assert {found(server.client, "people", number) for number in range(people)} == {target}
            assert server.client.get("/collections/people").json()["faces"] == people, kill
            on[target] += 1
    print(f"{KILLS} kills, {people} people, ended on {on}")
