"""Searches go on while an erasure writes the whole file anew, and never name who is erased, or another."""

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from enrolment import MODEL, SETTINGS, new_faces, units
from galleries import open_gallery
from live_server import live_server

TORTURE = float(os.environ.get("TORTURE", "0"))

pytestmark = pytest.mark.timeout(0 if TORTURE else 120)


def _count(short: int, full: int) -> int:
    return max(1, round(full * TORTURE)) if TORTURE else short


def test_an_erasure_is_complete_beside_busy_searches_and_searches_do_not_wait_for_it(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        for number in range(4):
            gallery.enrol("lab", MODEL.contract_id, f"crowd {number}", new_faces(units(number, 4000)))
        stop, searches, erasures = threading.Event(), [], []
        probe = units(99, 1)[0]

        def search() -> None:
            while not stop.is_set():
                began = time.monotonic()
                gallery.search("lab", MODEL.contract_id, probe, 5)
                searches.append((began, time.monotonic()))

        searching = [threading.Thread(target=search) for _ in range(2)]
        for each in searching:
            each.start()
        for number in range(5):
            gallery.enrol("lab", MODEL.contract_id, f"Ann {number}", new_faces(units(200 + number, 1)))
            began = time.monotonic()
            assert gallery.erase("lab", f"Ann {number}").overwritten
            erasures.append((began, time.monotonic()))
        stop.set()
        for each in searching:
            each.join()

    within = [
        search for search in searches if any(began < search[0] and search[1] < ended for began, ended in erasures)
    ]
    assert len(within) > len(erasures)


STAYING = 200
Search = Callable[[np.ndarray], str | None]  # who a vector is taken for, beyond doubt


def _of(person: int, dimension: int) -> np.ndarray:
    return units(10_000 + person, 1, dimension)[0]


@dataclass
class Crowd:
    """People who come and go, and what the gallery has acknowledged of it."""

    dimension: int
    enrolled: set[int] = field(default_factory=set)
    erasing: set[int] = field(default_factory=set)
    erased: set[int] = field(default_factory=set)
    searches: int = 0
    of_erased: int = 0

    def search(self, search: Search, count: int, seed: int) -> None:
        """Search for people who are there, may be there, and are not any more."""
        rng = random.Random(seed)
        for _ in range(count):
            newest = len(self.enrolled)
            person = rng.choice([rng.randrange(STAYING), rng.randint(max(0, newest - 8), newest)])
            sure, gone = person in self.enrolled, person in self.erased
            found = search(_of(person, self.dimension))
            assert found in (None, f"person {person}")
            assert not (gone and found), f"{found} was erased"
            assert found or not sure or person in self.erasing, f"person {person} was not found"
            self.searches += 1
            self.of_erased += gone

    def come_and_go(self, enrol: Callable[[int], object], erase: Callable[[int], object], end: threading.Event) -> None:
        """One after the other is enrolled, and erased again."""
        for person in itertools.count(STAYING):
            if end.is_set():
                return
            enrol(person)
            self.enrolled.add(person)
            if person >= STAYING + 4:
                self.erasing.add(person - 4)
                erase(person - 4)
                self.erased.add(person - 4)


def _searched_beside(
    crowd: Crowd, searches: list[Search], count: int, change: tuple[Callable[[int], object], ...]
) -> None:
    end, failed = threading.Event(), []

    def run(search: Search, seed: int) -> None:
        try:
            crowd.search(search, count // len(searches), seed)
        except BaseException as error:  # told by the thread that waits
            failed.append(error)

    changing = threading.Thread(target=crowd.come_and_go, args=(*change, end))
    searching = [threading.Thread(target=run, args=(search, seed)) for seed, search in enumerate(searches)]
    for each in (changing, *searching):
        each.start()
    for each in searching:
        each.join()
    end.set()
    changing.join()
    assert failed == []


def test_searches_during_erasures_name_nobody_else_and_nobody_who_is_erased(tmp_path: Path) -> None:
    count, contract = _count(1500, 100_000), MODEL.contract_id
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        crowd = Crowd(MODEL.dimension)

        def enrol(person: int) -> object:
            return gallery.enrol("lab", contract, f"person {person}", new_faces(_of(person, MODEL.dimension)[None]))

        def search(probe: np.ndarray) -> str | None:
            matches, _ = gallery.search("lab", contract, probe, 3)
            return matches[0].subject if matches and matches[0].similarity > 0.9999 else None

        for person in range(STAYING):
            enrol(person)
            crowd.enrolled.add(person)
        _searched_beside(crowd, [search] * 2, count, (enrol, lambda person: gallery.erase("lab", f"person {person}")))
    print(
        f"{crowd.searches} searches beside {len(crowd.erased)} erasures, {crowd.of_erased} for who was erased: 0 wrong"
    )
    assert crowd.searches == count // 2 * 2
    assert min(len(crowd.erased), crowd.of_erased) > 0


def test_so_it_is_over_rest(tmp_path: Path, models_dir: Path) -> None:
    count = _count(200, 10_000)
    with live_server(tmp_path / "data", models_dir=str(models_dir)) as server:
        server.client.put("/collections/lab", json={"purpose": "p"})
        crowd = Crowd(128)

        def enrol(person: int) -> None:
            body = {"embedding": _of(person, 128).tolist()}
            assert server.client.post(f"/collections/lab/subjects/person {person}/faces", json=body).status_code == 201

        def erase(person: int) -> None:
            assert server.client.delete(f"/collections/lab/subjects/person {person}").status_code == 200

        def search(probe: np.ndarray) -> str | None:
            body = {"embedding": probe.tolist(), "threshold": 0.9}
            answer = server.client.post("/collections/lab/identify", json=body)
            assert answer.status_code == 200
            return next((each["subject"] for each in answer.json()["candidates"]), None)

        for person in range(STAYING):
            enrol(person)
            crowd.enrolled.add(person)
        _searched_beside(crowd, [search] * 2, count, (enrol, erase))
    print(f"{crowd.searches} searches over REST beside {len(crowd.erased)} erasures: 0 wrong")
    assert crowd.searches == count // 2 * 2
    assert len(crowd.erased) > 0
