"""A primary and its standby: what a replica may answer, and what is left when the primary is killed under load.

`make torture` fails over as often as docs/reliability.md says.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from engines import Postgres
from enrolment import MODEL, SETTINGS, new_face, new_faces, units
from galleries import keys_of
from live_server import LiveServer, live_server, wait_until
from postgres_server import Cluster, clusters

from service.domain import CollectionSettings, ModelInfo, StoredCrop
from service.errors import ContractMismatchError, NotFoundError
from service.gallery.postgres.gallery import PostgresGallery

CONTRACT = MODEL.contract_id
TORTURE = float(os.environ.get("TORTURE", "0"))
DIMENSION = 128

pytestmark = pytest.mark.timeout(0 if TORTURE else 120)


def _count(short: int, full: int) -> int:
    return max(1, round(full * TORTURE)) if TORTURE else short


@contextmanager
def _pair(folder: Path, **settings: str) -> Iterator[tuple[Cluster, Cluster]]:
    """A primary, and a standby that follows it."""
    primary = Cluster(folder, "primary", **settings)
    primary.make()
    primary.start()
    try:
        with _standby(folder, primary) as standby:
            yield primary, standby
    finally:
        primary.stop(signal.SIGQUIT)


@contextmanager
def _standby(folder: Path, primary: Cluster) -> Iterator[Cluster]:
    standby = Cluster(folder, "standby")
    standby.copy_of(primary)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop(signal.SIGQUIT)


# --- a replica


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """Both, for the tests of replicas; each test leaves them following."""
    with clusters() as folder, _pair(folder) as both:
        yield both


@pytest.fixture
def replicated(pair: tuple[Cluster, Cluster], tmp_path: Path) -> Iterator[PostgresGallery]:
    """A gallery with a collection `lab` that may search the standby."""
    primary, standby = pair
    home = Postgres(tmp_path, primary)
    master = keys_of(tmp_path / "data").vault.master
    with closing(PostgresGallery(home.url, master, standby.url(home.database))) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        yield gallery


def _answered(gallery: PostgresGallery) -> int:
    assert gallery._replica is not None
    return gallery._replica.answered


def _search(gallery: PostgresGallery, seed: int) -> list[str]:
    return [match.subject for match in gallery.search("lab", CONTRACT, units(seed, 1)[0], 5)[0]]


def test_a_replica_that_has_come_far_enough_answers_searches(replicated: PostgresGallery) -> None:
    replicated.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))

    def spared() -> bool:
        assert _search(replicated, 1) == ["Ann"]
        return _answered(replicated) > 0

    wait_until(spared)


def test_who_was_enrolled_is_found_and_who_was_erased_is_not_however_late_the_replica_is(
    replicated: PostgresGallery, pair: tuple[Cluster, Cluster]
) -> None:
    replicated.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))
    wait_until(lambda: bool(_search(replicated, 1)) and _answered(replicated) > 0)
    pair[1].execute("SELECT pg_wal_replay_pause()")
    wait_until(lambda: pair[1].execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])
    try:
        before = _answered(replicated)
        replicated.enrol("lab", CONTRACT, "Bob", new_faces(units(2, 2)))
        assert _search(replicated, 2)[0] == "Bob"
        replicated.erase("lab", "Ann")
        assert _search(replicated, 1) == ["Bob"]
        replicated.erase("lab")
        with pytest.raises(NotFoundError):
            _search(replicated, 1)
        assert _answered(replicated) == before
    finally:
        pair[1].execute("SELECT pg_wal_replay_resume()")


def test_what_another_server_has_changed_is_known_too(
    replicated: PostgresGallery, pair: tuple[Cluster, Cluster], tmp_path: Path
) -> None:
    url = replicated._store.connections._parameters
    replicated.enrol("lab", CONTRACT, "Bob", new_faces(units(2, 2)))
    wait_until(lambda: bool(_search(replicated, 2)) and _answered(replicated) > 0)
    with closing(PostgresGallery(pair[0].url(str(url["dbname"])), keys_of(tmp_path / "data").vault.master)) as other:
        pair[1].execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: pair[1].execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])
        try:
            before = _answered(replicated)
            other.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))
            assert _search(replicated, 1) == ["Ann", "Bob"]
            other.erase("lab", "Ann")
            assert _search(replicated, 1) == ["Bob"]
            assert _answered(replicated) == before
        finally:
            pair[1].execute("SELECT pg_wal_replay_resume()")


def test_a_replica_that_is_late_answers_by_no_model_but_the_one_the_collection_is_on(
    replicated: PostgresGallery, pair: tuple[Cluster, Cluster]
) -> None:
    new = ModelInfo("better-model", "fedcba9876543210", MODEL.dimension)
    replicated.put_collection("lab", CollectionSettings("p", store_crops=True), MODEL)
    vectors = {name: units(number, 1)[0] for number, name in enumerate(["Ann", "Bob", "Cid"])}
    others = {name: units(100 + number, 1)[0] for number, name in enumerate(vectors)}

    def search(model: ModelInfo, name: str) -> tuple[str, float]:
        probe = (vectors if model == MODEL else others)[name]
        best = replicated.search("lab", model.contract_id, probe, 3)[0][0]
        return best.subject, best.similarity

    def embed(model: ModelInfo) -> Callable[[Sequence[StoredCrop]], list[np.ndarray]]:
        made = vectors if model == MODEL else others
        return lambda crops: [made[each.crop.decode()] for each in crops]

    for name in ("Ann", "Bob"):
        replicated.enrol("lab", CONTRACT, name, [new_face(vectors[name], crop=name.encode())])
    wait_until(lambda: search(MODEL, "Ann")[0] == "Ann" and _answered(replicated) > 0)
    pair[1].execute("SELECT pg_wal_replay_pause()")
    wait_until(lambda: pair[1].execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])
    try:
        before = _answered(replicated)
        assert replicated.switch("lab", new, embed(new))
        assert search(new, "Ann") == ("Ann", pytest.approx(1, abs=1e-5))
        with pytest.raises(ContractMismatchError):
            search(MODEL, "Ann")
        replicated.enrol("lab", new.contract_id, "Cid", [new_face(others["Cid"], crop=b"Cid")])
        assert replicated.switch("lab", MODEL, embed(MODEL))
        assert search(MODEL, "Cid") == ("Cid", pytest.approx(1, abs=1e-5))
        assert replicated.switch("lab", new, embed(new))
        replicated.keep_contracts("lab", [])
        assert _answered(replicated) == before
    finally:
        pair[1].execute("SELECT pg_wal_replay_resume()")
    wait_until(lambda: search(new, "Cid")[0] == "Cid" and _answered(replicated) > before)
    assert [search(new, name) for name in others] == [(name, pytest.approx(1, abs=1e-5)) for name in others]


def test_a_replica_that_is_gone_is_missed_by_nobody_and_found_again(
    replicated: PostgresGallery, pair: tuple[Cluster, Cluster]
) -> None:
    replicated.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))
    wait_until(lambda: bool(_search(replicated, 1)) and _answered(replicated) > 0)
    pair[1].kill()
    try:
        for _ in range(5):
            assert _search(replicated, 1) == ["Ann"]
    finally:
        pair[1].start()
    before = _answered(replicated)
    wait_until(lambda: bool(_search(replicated, 1)) and _answered(replicated) > before)


# --- failover


@dataclass
class Book:
    """What one client was told."""

    enrolled: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    refused: int = 0  # told that nothing was changed
    unknown: int = 0
    answers: int = 0


def _vector(name: str) -> list[float]:
    vector = np.random.default_rng(list(name.encode())).normal(size=DIMENSION)
    return list(vector / np.linalg.norm(vector))


def _traffic(address: str, worker: int, book: Book, stop: threading.Event) -> None:
    """Enrol and erase until told to stop, whatever is answered meanwhile."""
    rng, number = random.Random(worker), 0
    with httpx.Client(base_url=address, timeout=40) as client:
        while not stop.is_set():
            number += 1
            mine = sorted(book.enrolled - book.unsure)
            erase = bool(mine) and rng.random() < 0.35
            name = rng.choice(mine) if erase else f"w{worker}-{number}"
            path = f"/collections/lab/subjects/{name}"
            answer = client.delete(path) if erase else client.post(f"{path}/faces", json={"embedding": _vector(name)})
            _note(book, name, erase, answer)


def _note(book: Book, name: str, erase: bool, answer: httpx.Response) -> None:
    if answer.status_code in (200, 201):
        book.answers += 1
        (book.erased if erase else book.enrolled).add(name)
        if erase:
            book.enrolled.discard(name)
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "gallery_unavailable"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    if error["details"]["outcome"] == "unknown":
        book.unknown += 1
        book.unsure.add(name)
    else:
        book.refused += 1
        time.sleep(0.05)


def _people(server: LiveServer) -> dict[str, int]:
    there: dict[str, int] = {}
    cursor = None
    while True:
        params = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = server.client.get("/collections/lab/subjects", params=params).json()
        there |= {each["subject"]: each["faces"] for each in page["subjects"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return there


def test_no_acknowledged_change_is_lost_when_the_primary_is_killed_and_the_standby_promoted(
    models_dir: Path, tmp_path: Path
) -> None:
    totals = Book()
    for turn in range(_count(1, 30)):
        with clusters() as folder, _pair(folder) as (primary, standby):
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.execute("SELECT pg_reload_conf()")
            wait_until(lambda p=primary: p.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))
            database = primary.new_database()
            url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{database}"
            settings = {"models_dir": str(models_dir), "gallery_url": url}
            with live_server(tmp_path / f"data-{turn}", **settings) as server:
                assert server.client.put("/collections/lab", json={"purpose": "torture"}).status_code == 201
                books = _fail_over(server, primary, standby, random.Random(turn))
                _check(server, books)
        for book in books:
            totals.answers += book.answers
            totals.refused += book.refused
            totals.unknown += book.unknown
            totals.erased |= {f"{turn}-{name}" for name in book.erased}
    assert totals.refused + totals.unknown  # else nobody noticed that the primary was gone
    print(
        f"\n{_count(1, 30)} failovers: {totals.answers} acknowledged changes, {len(totals.erased)} of them erasures; "
        f"{totals.refused} told that nothing was changed, {totals.unknown} that it is not known; 0 lost, 0 back"
    )


def _fail_over(server: LiveServer, primary: Cluster, standby: Cluster, chance: random.Random) -> list[Book]:
    """Kill the primary under four clients, promote the standby, and let them go on for a while."""
    books, stop = [Book() for _ in range(4)], threading.Event()
    threads = [
        threading.Thread(target=_traffic, args=(server.http, worker, book, stop)) for worker, book in enumerate(books)
    ]
    for thread in threads:
        thread.start()
    enough = chance.randint(40, 200)
    wait_until(lambda: sum(book.answers for book in books) > enough, 60)
    primary.kill()
    standby.promote()
    after = sum(book.answers for book in books)
    wait_until(lambda: sum(book.answers for book in books) > after + 40, 60)
    stop.set()
    for thread in threads:
        thread.join()
    return books


def _check(server: LiveServer, books: list[Book]) -> None:
    """Nobody who was acknowledged is missing, nobody who was erased is back, and everybody is who they were."""
    there = _people(server)
    for book in books:
        assert book.enrolled - book.unsure <= there.keys()
        assert not (book.erased - book.unsure) & there.keys()
    assert there.keys() <= set().union(*(book.enrolled | book.unsure for book in books))
    assert set(there.values()) <= {1}
    for name in random.Random(0).sample(sorted(there), min(10, len(there))):
        body = {"embedding": _vector(name), "limit": 1, "threshold": 0.9}
        found = server.client.post("/collections/lab/identify", json=body).json()
        assert (found["candidates"][0]["subject"], found["gallery_size"]) == (name, len(there))
