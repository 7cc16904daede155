"""Changes of a collection's model in PostgreSQL: several servers, tables that come and go, what others do to them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import activation
import numpy as np
import psycopg
import pytest
from engines import Postgres
from enrolment import MODEL, new_face, units
from live_server import live_server
from postgres_server import Cluster

from service.domain import CollectionSettings, Coverage, ModelInfo, StoredCrop
from service.errors import (
    ContractMismatchError,
    GalleryUnavailableError,
    NotFoundError,
    StorageError,
    StorageFullError,
)
from service.gallery.postgres import database, indexes
from service.gallery.postgres.database import _Commit
from service.gallery.postgres.gallery import PostgresGallery
from service.gallery.postgres.indexes import Indexes
from service.gallery.postgres.records import Records

OLD = MODEL
NEW = ModelInfo("better-model", "fedcba9876543210", 24)
SAME_SIZE = ModelInfo("best-model", "00ff00ff00ff00ff", OLD.dimension)
KEEPING_CROPS = CollectionSettings("door of the laboratory", store_crops=True)
FACES = 8


def _vector(number: int, model: ModelInfo) -> np.ndarray:
    return units(number ^ int(model.contract_id, 16), 1, model.dimension)[0]


def _network(model: ModelInfo) -> Callable[[Sequence[StoredCrop]], list[np.ndarray]]:
    return lambda crops: [_vector(each.crop[0], model) for each in crops]


def _enrol(gallery: PostgresGallery, number: int, model: ModelInfo = OLD) -> str:
    (face,) = gallery.enrol(
        "lab", model.contract_id, f"person {number}", [new_face(_vector(number, model), crop=bytes([number]))]
    )
    return face.face_id


def _finds(gallery: PostgresGallery, model: ModelInfo, number: int) -> bool:
    match = gallery.search("lab", model.contract_id, _vector(number, model), 1)[0][0]
    return (match.subject, match.similarity) == (f"person {number}", pytest.approx(1, abs=1e-5))


def _tables(home: Postgres) -> int:
    """Tables of vectors under other contracts."""
    ((count,),) = home.execute(
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'vectors%'"
        " AND relnamespace = 'facesphere'::regnamespace"
    )
    return int(str(count))


@pytest.fixture
def home(tmp_path: Path, cluster: Cluster) -> Iterator[Postgres]:
    """An empty database."""
    home = Postgres(tmp_path, cluster)
    yield home
    home.remove()


@pytest.fixture
def gallery(home: Postgres) -> Iterator[PostgresGallery]:
    """A gallery with eight people in a collection `lab` that keeps crops."""
    with closing(home.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        for number in range(FACES):
            _enrol(gallery, number)
        yield gallery


@pytest.fixture
def other(home: Postgres, gallery: PostgresGallery) -> Iterator[PostgresGallery]:
    """Another server on the same database."""
    with closing(home.open()) as other:
        yield other


# --- versions of the tables


def test_a_database_of_the_version_before_is_brought_up_to_date_with_its_people(
    home: Postgres, gallery: PostgresGallery
) -> None:
    gallery.close()
    home.execute(
        "DROP TABLE contracts, jobs; ALTER TABLE collections DROP COLUMN place;"
        " ALTER TABLE faces ALTER COLUMN code SET NOT NULL, ALTER COLUMN vector SET NOT NULL,"
        " DROP COLUMN request, DROP COLUMN content;"
        " UPDATE store SET version = 1"
    )

    with closing(home.open()) as after:
        assert home.execute("SELECT version FROM store") == [(3,)]
        assert list(after._records.check()) == [("lab", FACES)]
        assert _finds(after, OLD, 3)
        assert after.coverage("lab", OLD.contract_id) == Coverage(FACES, 0, 0)
        assert after.switch("lab", NEW, _network(NEW))
        _enrol(after, 100, NEW)
        assert after.switch("lab", OLD, _network(OLD))
        assert _finds(after, OLD, 100)
        assert after.jobs.list() == []
        face = replace(new_face(_vector(7, OLD)), request="0 of a")  # known from version 3 on
        assert after.enrol("lab", OLD.contract_id, "Zoë", [face]) == after.enrol("lab", OLD.contract_id, "Zoë", [face])


# --- several servers


def test_a_switch_is_known_to_every_server_at_once(gallery: PostgresGallery, other: PostgresGallery) -> None:
    for turn in range(5):
        model, before = ((NEW, OLD), (OLD, NEW))[turn % 2]
        assert gallery.switch("lab", model, _network(model))
        assert _finds(other, model, 2)
        _enrol(other, 100 + turn, model)
        with pytest.raises(ContractMismatchError):
            other.search("lab", before.contract_id, _vector(1, before), 1)
        with pytest.raises(ContractMismatchError):
            _enrol(other, 200, before)
        assert _finds(gallery, model, 100 + turn)


def test_servers_that_switch_and_cover_together_agree(home: Postgres, gallery: PostgresGallery) -> None:
    servers = [gallery, *(home.open() for _ in range(3))]
    results: list[object] = []

    def change(server: PostgresGallery) -> None:
        try:
            crops = server.uncovered("lab", NEW.contract_id, 0, 100)
            server.cover("lab", NEW, {each.face_id: _vector(each.crop[0], NEW) for each in crops})
            results.append(server.switch("lab", NEW, _network(NEW)))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=change, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 4
    assert _tables(home) == 1
    for server in servers:
        assert all(_finds(server, NEW, number) for number in range(FACES))
    assert list(gallery._records.check()) == [("lab", FACES)]
    for server in servers[1:]:
        server.close()


def test_who_enrols_while_the_last_faces_are_embedded_is_told_to_come_back_with_the_new_model(
    gallery: PostgresGallery, other: PostgresGallery
) -> None:
    outcomes: list[object] = []

    def enrol() -> None:
        try:
            outcomes.append(_enrol(other, 100))
        except ContractMismatchError as error:
            outcomes.append(error.details["collection_contract_id"])

    thread = threading.Thread(target=enrol)

    def embed(crops: Sequence[StoredCrop]) -> list[np.ndarray]:
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for the collection's row
        assert _finds(other, OLD, 1)  # and a search does not
        return _network(NEW)(crops)

    assert gallery.switch("lab", NEW, embed)

    thread.join()
    assert outcomes == [NEW.contract_id]
    assert gallery.size("lab") == FACES


@pytest.mark.parametrize("kept", [True, False], ids=["the old vectors stay", "the old vectors go"])
def test_a_search_that_a_switch_overtakes_is_refused_and_never_answered_by_half(
    gallery: PostgresGallery, other: PostgresGallery, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    gallery.switch("lab", NEW, _network(NEW))
    _overtaken(gallery, other, monkeypatch, "find_with_change", kept)

    with pytest.raises(ContractMismatchError) as refused:
        gallery.search("lab", NEW.contract_id, _vector(1, NEW), 5)

    assert refused.value.details["collection_contract_id"] == OLD.contract_id


@pytest.mark.parametrize("kept", [True, False], ids=["the old vectors stay", "the old vectors go"])
def test_reading_vectors_that_a_switch_overtakes_is_of_the_state_that_it_began_with_or_refused(
    gallery: PostgresGallery, other: PostgresGallery, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    gallery.switch("lab", NEW, _network(NEW))
    _overtaken(gallery, other, monkeypatch, "look_up", kept)

    if kept:
        ((_, vector),) = gallery.vectors_of("lab", NEW.contract_id, "person 1")
        np.testing.assert_array_equal(vector, _vector(1, NEW))
    else:
        with pytest.raises(ContractMismatchError):
            gallery.vectors_of("lab", NEW.contract_id, "person 1")
        document = gallery.export("lab", "person 1")
        np.testing.assert_array_equal(next(iter(document.vectors.values())), _vector(1, OLD))


def _overtaken(
    gallery: PostgresGallery, other: PostgresGallery, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    """Right after this server has read what model the collection is on, another gives it the old one."""
    read, turns = getattr(Records, name), iter([True])

    def read_and_wait(self: Records, *arguments: str) -> object:
        row = read(self, *arguments)
        if self is gallery._records and next(turns, False):
            assert other.switch("lab", OLD, _network(OLD))
            if not kept:
                other.keep_contracts("lab", [])
        return row

    monkeypatch.setattr(Records, name, read_and_wait)


def test_a_switch_whose_answer_was_lost_is_looked_for_and_acknowledged(
    gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, turns = _Commit.run, iter([True])

    def cut_off(self: _Commit) -> None:
        if next(turns, False):
            self._connection.execute("COMMIT")
            self._connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        usual(self)

    monkeypatch.setattr(database._Commit, "run", cut_off)

    assert gallery.switch("lab", NEW, _network(NEW))

    assert _finds(gallery, NEW, 1)


# --- tables that come and go


def test_tables_of_other_contracts_go_with_the_contract_or_the_collection(
    home: Postgres, gallery: PostgresGallery
) -> None:
    assert _tables(home) == 0
    gallery.cover("lab", NEW, {})
    assert _tables(home) == 0
    gallery.switch("lab", NEW, _network(NEW))
    gallery.switch("lab", SAME_SIZE, _network(SAME_SIZE))
    assert _tables(home) == 2

    gallery.keep_contracts("lab", [])
    assert _tables(home) == 1
    _enrol(gallery, 100, SAME_SIZE)
    gallery.switch("lab", OLD, _network(OLD))
    gallery.keep_contracts("lab", [])
    assert _tables(home) == 1  # of the one who was enrolled with it
    assert home.execute("SELECT count(*) FROM contracts") == [(2,)]

    gallery.erase("lab")

    assert _tables(home) == 0
    assert home.execute("SELECT count(*) FROM contracts") == [(0,)]


def test_a_change_of_the_model_that_is_not_made_leaves_no_table(home: Postgres, gallery: PostgresGallery) -> None:
    gallery.enrol("lab", OLD.contract_id, "Dan", [new_face(units(1, 1)[0])])  # without a crop

    assert not gallery.switch("lab", NEW, _network(NEW))

    assert _tables(home) == 0


# --- indexes


def test_a_large_collection_is_indexed_for_the_new_model_before_it_is_searched_by_it(
    home: Postgres, gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "INDEX_FROM", 5)
    monkeypatch.setattr(Indexes, "look", lambda self: None)
    gallery.indexes.build_due()
    crops = gallery.uncovered("lab", NEW.contract_id, 0, 100)
    gallery.cover("lab", NEW, {each.face_id: _vector(each.crop[0], NEW) for each in crops[1:]})
    assert gallery.collection("lab").model == OLD

    assert gallery.switch("lab", NEW, _network(NEW))

    names = (
        "SELECT c.relname ~ 'vectors' FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE c.relname LIKE '%by_code' AND i.indisvalid ORDER BY 1"
    )
    assert home.execute(names) == [(False,), (True,)]
    assert gallery.indexes.build_due() == []
    home.execute(f"ALTER DATABASE {home.database} SET enable_seqscan = off")
    try:
        with closing(home.open()) as fresh:
            assert all(_finds(fresh, NEW, number) for number in range(FACES))
            assert fresh.switch("lab", OLD, _network(OLD))
            assert all(_finds(fresh, OLD, number) for number in range(FACES))
    finally:
        home.execute(f"ALTER DATABASE {home.database} RESET enable_seqscan")
    assert home.execute(names) == [(False,), (True,)]
    gallery.keep_contracts("lab", [])
    assert home.execute(names) == [(False,)]


def test_an_index_that_cannot_be_built_leaves_the_model_as_it_was(
    gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "INDEX_FROM", 5)
    crops = gallery.uncovered("lab", NEW.contract_id, 0, 100)
    gallery.cover("lab", NEW, {each.face_id: _vector(each.crop[0], NEW) for each in crops})

    def full(self: Indexes, *arguments: object) -> bool:
        raise psycopg.errors.DiskFull("no space left on device")

    monkeypatch.setattr(Indexes, "_build", full)

    with pytest.raises(StorageFullError):
        gallery.switch("lab", NEW, _network(NEW))

    assert _finds(gallery, OLD, 1)


@pytest.mark.parametrize("end", ["the collection is erased", "the server is stopped"])
def test_a_change_of_the_model_that_is_waiting_for_its_index_can_be_ended(
    home: Postgres, gallery: PostgresGallery, other: PostgresGallery, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    crops = gallery.uncovered("lab", NEW.contract_id, 0, 100)
    gallery.cover("lab", NEW, {each.face_id: _vector(each.crop[0], NEW) for each in crops})
    monkeypatch.setattr(indexes, "INDEX_FROM", 5)
    monkeypatch.setattr(Indexes, "build_due", lambda self: [])
    outcomes: list[object] = []

    def switch() -> None:
        try:
            outcomes.append(gallery.switch("lab", NEW, _network(NEW)))
        except (GalleryUnavailableError, NotFoundError) as error:
            outcomes.append(error)

    with psycopg.connect(home.url) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")  # building waits for everybody who sees an older state
        thread = threading.Thread(target=switch)
        thread.start()
        while not home.execute("SELECT 1 FROM pg_stat_progress_create_index"):
            thread.join(0.02)

        if end == "the server is stopped":
            gallery.give_up()
            thread.join()  # while the reader is still there
        else:
            assert len(other.erase("lab").face_ids) == FACES

    thread.join()
    assert isinstance(outcomes[0], GalleryUnavailableError | NotFoundError)
    if end == "the server is stopped":
        assert _finds(other, OLD, 1)
        monkeypatch.undo()
        assert other.switch("lab", NEW, _network(NEW))  # what was left of the index is in nobody's way
        assert _finds(other, NEW, 1)
    else:
        assert (other.collections(), _tables(home)) == ([], 0)


# --- what others may do to the tables


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM {table} WHERE id = (SELECT min(id) FROM {table})",
        "UPDATE {table} SET vector = (SELECT vector FROM {table} ORDER BY id DESC LIMIT 1)",
        "UPDATE {table} v SET vector = f.vector FROM faces f WHERE f.id = v.id",
        "UPDATE collections SET place = 0",
        "UPDATE collections SET contract_id = '{old}', place = 0",
    ],
)
def test_a_vector_of_another_contract_that_was_moved_or_removed_by_hand_is_found(
    home: Postgres, gallery: PostgresGallery, edit: str
) -> None:
    gallery.switch("lab", SAME_SIZE, _network(SAME_SIZE))
    assert list(gallery._records.check()) == [("lab", FACES)]
    ((table,),) = home.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'vectors%'")

    home.execute(edit.format(table=table, old=OLD.contract_id))

    with pytest.raises(StorageError, match="damaged"):
        list(gallery._records.check())
    if "DELETE" not in edit:  # whoever is not there any more is missed by `check` alone
        with pytest.raises(StorageError, match="damaged"):
            gallery.search("lab", SAME_SIZE.contract_id, _vector(1, SAME_SIZE), 1)


def test_no_vector_under_another_contract_lies_in_the_files_of_the_database_as_it_is(
    home: Postgres, gallery: PostgresGallery, cluster: Cluster
) -> None:
    gallery.switch("lab", NEW, _network(NEW))
    _enrol(gallery, 100, NEW)
    ((table,),) = home.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'vectors%'")
    sealed = [bytes(row[0]) for row in home.execute(f"SELECT vector FROM {table}")]  # type: ignore[call-overload]
    cluster.execute("CHECKPOINT")

    ((oid,),) = home.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
    folders = (cluster.folder / "base" / str(oid), cluster.folder / "pg_wal")
    files = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]

    assert all(any(needle[:64] in content for content in files) for needle in sealed)  # else the next proves nothing
    plain = [_vector(n, NEW).astype(kind).tobytes() for n in (*range(FACES), 100) for kind in ("<f4", "<f2", "<f8")]
    assert not any(needle in content for needle in plain for content in files)


# --- a server


def test_a_server_on_postgresql_activates_a_model_and_goes_back(
    models_dir: Path, tmp_path: Path, home: Postgres
) -> None:
    activation.two_models(models_dir, tmp_path / "data" / "models")
    with live_server(tmp_path / "data", gallery_url=home.url) as server:
        client = server.client
        activation.put(client, "lab")
        for number in range(3):
            assert activation.enrol(client, "lab", number).status_code == 201

        job = activation.activate(client, activation.NEW)

        assert activation.moved(job)["lab"]["state"] == "switched"
        assert activation.enrol(client, "lab", 3).status_code == 201
        assert {activation.found(client, "lab", number) for number in range(4)} == {activation.NEW}
        answer = client.post("/models/rollback")
        assert answer.status_code == 202
        assert activation.ended(client, answer.json()["id"])["state"] == "done"
        assert {activation.found(client, "lab", number) for number in range(4)} == {activation.OLD}
