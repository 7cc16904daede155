"""What is PostgreSQL's own: several servers at once, lost connections and commits, indexes, what lies in its files."""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
from engines import Postgres
from enrolment import MODEL, SETTINGS, near, new_face, new_faces, units
from galleries import keys_of
from live_server import wait_until
from postgres_server import Cluster, running

from models.preprocess import l2_normalize
from service.domain import CollectionSettings, ModelInfo
from service.errors import GalleryUnavailableError, InvalidRequestError, NotFoundError, StorageError, StorageFullError
from service.gallery.audit import BrokenChainError
from service.gallery.postgres import database, indexes, key_table
from service.gallery.postgres.codes import ERROR, Rotation
from service.gallery.postgres.connections import Connections, PatientConnection
from service.gallery.postgres.database import _Commit
from service.gallery.postgres.gallery import PostgresGallery
from service.security.keys import KeyGrant

CONTRACT = MODEL.contract_id
LARGE = ModelInfo("large", "f" * 16, 64)


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of keys wait for leases to be over: half a second is as good here."""
    monkeypatch.setattr(key_table, "LEASE_S", 0.5)
    monkeypatch.setattr(key_table, "_REFRESH_S", 0.1)


@pytest.fixture
def home(tmp_path: Path, cluster: Cluster) -> Iterator[Postgres]:
    """An empty database."""
    home = Postgres(tmp_path, cluster)
    yield home
    home.remove()


@pytest.fixture
def gallery(home: Postgres) -> Iterator[PostgresGallery]:
    """A gallery with an empty collection `lab`."""
    with closing(home.open()) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        yield gallery


@pytest.fixture
def other(home: Postgres, gallery: PostgresGallery) -> Iterator[PostgresGallery]:
    """Another server on the same database."""
    with closing(home.open()) as other:
        yield other


def _together(*works: Callable[[], object]) -> list[object]:
    """What each gives, run at the same time."""
    results: list[object] = [None] * len(works)

    def run(place: int, work: Callable[[], object]) -> None:
        try:
            results[place] = work()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- several servers


def test_servers_that_begin_an_empty_database_together_make_one_gallery(home: Postgres) -> None:
    galleries = _together(*[home.open] * 4)

    for gallery in galleries:
        assert isinstance(gallery, PostgresGallery), gallery
    made = _together(*[lambda g=g: g.put_collection("lab", SETTINGS, MODEL)[1] for g in galleries])
    assert sorted(made) == [False, False, False, True]
    for gallery in galleries:
        assert [each.name for each in gallery.collections()] == ["lab"]
        gallery.close()


def test_what_one_server_enrols_or_erases_the_other_knows_at_once(
    gallery: PostgresGallery, other: PostgresGallery
) -> None:
    probe = units(1, 1)[0]
    for turn in range(10):
        gallery.enrol("lab", CONTRACT, f"person {turn}", new_faces([probe]))
        assert other.search("lab", CONTRACT, probe, 5)[0][0].subject == f"person {turn}"
        other.erase("lab", f"person {turn}")
        assert gallery.search("lab", CONTRACT, probe, 5) == ([], 0)
    other.erase("lab")
    with pytest.raises(NotFoundError):
        gallery.enrol("lab", CONTRACT, "Ann", new_faces([probe]))


def test_faces_of_one_person_from_several_servers_are_all_kept(
    gallery: PostgresGallery, other: PostgresGallery
) -> None:
    def enrol(server: PostgresGallery, seed: int) -> list[str]:
        stored = [server.enrol("lab", CONTRACT, "Ann", new_faces(units(seed + n, 2))) for n in range(10)]
        return [face.face_id for faces in stored for face in faces]

    first, second = _together(lambda: enrol(gallery, 0), lambda: enrol(other, 100))

    assert isinstance(first, list)
    assert isinstance(second, list)
    assert {face.face_id for face in gallery.subject("lab", "Ann").faces} == {*first, *second}
    assert gallery.collection("lab").subjects == 1
    assert list(gallery._records.check()) == [("lab", 40)]
    assert gallery.audit.verify().last == 1 + 20


def test_a_server_with_another_master_key_is_refused_in_one_line(
    home: Postgres, gallery: PostgresGallery, tmp_path: Path
) -> None:
    with pytest.raises(StorageError) as refused:
        PostgresGallery(home.url, keys_of(tmp_path / "elsewhere").vault.master)

    assert "another master key" in refused.value.message
    assert "\n" not in refused.value.message


def test_a_revoked_key_is_known_by_no_server_once_that_is_answered(
    gallery: PostgresGallery, other: PostgresGallery
) -> None:
    assert not other.keys.ever_made
    key, _ = gallery.keys.create(KeyGrant("door", frozenset({"identify"})), "cli")
    assert other.keys.current()[key.id].revoked_at is None

    gallery.keys.revoke(key.id, "cli")

    assert other.keys.current()[key.id].revoked_at is not None
    assert other.keys.ever_made


def test_keys_that_could_not_be_read_lately_open_nothing(home: Postgres, gallery: PostgresGallery) -> None:
    gallery.keys.create(KeyGrant("door", frozenset({"identify"})), "cli")
    home.execute("ALTER TABLE key_state RENAME TO key_state_gone")

    with pytest.raises(GalleryUnavailableError):
        wait_until(lambda: not gallery.keys.current(), 5)

    home.execute("ALTER TABLE key_state_gone RENAME TO key_state")
    wait_until(lambda: _quiet(gallery.keys.current), 5)


def _quiet(call: Callable[[], object]) -> bool:
    try:
        return bool(call())
    except GalleryUnavailableError:
        return False


def test_one_server_sweeps_at_a_time(gallery: PostgresGallery, other: PostgresGallery) -> None:
    gallery.put_collection("lab", CollectionSettings("p", 1), MODEL)
    gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 3)))
    later = gallery._store.database._now().replace(year=2100)

    with other._store.database.holding_lock(_sweeping()) as held:
        assert held
        assert gallery.erase_expired(later) == 0

    assert gallery.erase_expired(later) == 3


def _sweeping() -> int:
    from service.gallery.postgres import sweep

    return sweep._SWEEPING


def test_a_role_that_owns_its_database_and_nothing_else_is_enough(tmp_path: Path, cluster: Cluster) -> None:
    home = Postgres(tmp_path, cluster)
    home.execute(
        f"CREATE ROLE r_{home.database} LOGIN; ALTER DATABASE {home.database} OWNER TO r_{home.database};"
        " CREATE EXTENSION IF NOT EXISTS vector"
    )
    url = home.url.replace("postgres@", f"r_{home.database}@")

    with closing(PostgresGallery(url, keys_of(tmp_path / "data").vault.master)) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))
        assert gallery.search("lab", CONTRACT, units(1, 1)[0], 1)[0][0].subject == "Ann"
        gallery.erase("lab")
        assert gallery.erase_expired() == 0


def test_searches_beside_a_collection_that_is_erased_and_made_anew_find_it_or_do_not(
    gallery: PostgresGallery, other: PostgresGallery
) -> None:
    probe, stop, seen = units(1, 1)[0], threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            try:
                seen.append(len(other.search("lab", CONTRACT, probe, 1)[0]))
            except NotFoundError:
                seen.append(-1)

    def remake() -> None:
        for _ in range(40):
            gallery.erase("lab")
            gallery.put_collection("lab", SETTINGS, MODEL)
            gallery.enrol("lab", CONTRACT, "Ann", new_faces([probe]))
        stop.set()

    assert _together(search, remake) == [None, None]
    assert {-1, 1} <= set(seen)


# --- lost connections and commits


def test_a_connection_that_the_server_cuts_is_replaced_without_a_word(home: Postgres, gallery: PostgresGallery) -> None:
    for turn in range(3):
        home.crash(gallery)
        gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(turn, 1)))
        home.crash(gallery)
        assert gallery.size("lab") == turn + 1


def test_a_database_that_is_gone_is_an_honest_error_at_once_and_found_again(tmp_path: Path) -> None:
    with running() as cluster:
        home = Postgres(tmp_path, cluster)
        with closing(home.open()) as gallery:
            gallery.put_collection("lab", SETTINGS, MODEL)
            gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 1)))
            cluster.stop()

            for call in (
                lambda: gallery.search("lab", CONTRACT, units(1, 1)[0], 1),
                lambda: gallery.enrol("lab", CONTRACT, "Bob", new_faces(units(2, 1))),
                lambda: gallery.erase("lab", "Ann"),
                lambda: gallery.collections(),
            ):
                with pytest.raises(GalleryUnavailableError) as refused:
                    call()
                assert refused.value.details["outcome"] == "nothing changed"
                assert refused.value.details["retry_after_s"] >= 1
            gallery.note("key-1", "verify", matched=True)  # decisions do not stop for the log

            cluster.start()

            wait_until(lambda: _quiet(lambda: gallery.size("lab")))
            assert gallery.search("lab", CONTRACT, units(1, 1)[0], 1)[0][0].subject == "Ann"
            gallery.note("key-1", "verify", matched=False)
            assert [entry["event"] for entry in gallery.audit.page(None, 3)] == ["verify", "verify", "enrol"]
            assert gallery.audit.verify().last == 4


def test_a_database_that_does_not_answer_keeps_nobody_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as cluster, closing(Postgres(tmp_path, cluster).open()) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        _be_impatient(gallery, 0.5)
        cluster.freeze()
        try:
            begun = time.monotonic()
            with pytest.raises(GalleryUnavailableError):
                gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 1)))
            assert time.monotonic() - begun < 20
        finally:
            cluster.thaw()
        wait_until(lambda: _quiet(lambda: gallery.collections()))
        assert gallery.size("lab") == 0


def test_reading_from_a_database_that_does_not_answer_waits_for_one_connection_and_not_for_each(
    tmp_path: Path,
) -> None:
    with running() as cluster, closing(Postgres(tmp_path, cluster).open()) as gallery:
        connections = gallery._store.connections
        with ExitStack() as taken:
            for _ in range(8):
                taken.enter_context(connections.one())
        assert len(connections._free) == 8
        _be_impatient(gallery, 1)
        cluster.freeze()
        try:
            begun = time.monotonic()
            with pytest.raises(GalleryUnavailableError):
                gallery.collections()
            # Its patience, and the time to find that there is no new connection (connect_timeout, 3 s); not 8 + 3.
            assert time.monotonic() - begun < 10
            assert connections._free == []
        finally:
            cluster.thaw()


def test_more_than_a_thousand_open_files_do_not_end_the_reading_of_keys(tmp_path: Path, cluster: Cluster) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with closing(Postgres(tmp_path, cluster).open()) as gallery:
            gallery.put_collection("lab", SETTINGS, MODEL)
            connection = gallery._store.connections._free[-1]

            assert gallery.collection("lab").name == "lab"
            assert connection.fileno() > 1024
            gallery.keys._refresh()
            assert gallery.keys.current() == {}
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("change", ["collection", "erasure", "key"])
def test_a_change_that_was_made_is_answered_as_made_though_the_database_goes_away_right_after(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with closing(Postgres(tmp_path, cluster).open()) as gallery:
        gallery.put_collection("old", SETTINGS, MODEL)
        run = _Commit.run

        def gone(self: Connections) -> PatientConnection:
            raise GalleryUnavailableError("gone")

        def commit_and_go(self: _Commit) -> None:
            run(self)
            monkeypatch.setattr(Connections, "_take", gone)

        monkeypatch.setattr(_Commit, "run", commit_and_go)
        if change == "collection":
            assert gallery.put_collection("lab", SETTINGS, MODEL)[1]
        elif change == "erasure":
            assert gallery.erase("old").face_ids == []
        else:
            key, _ = gallery.keys.create(KeyGrant("door", frozenset({"verify"})), "cli")
            assert key.grant.name == "door"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cr%t@db.example/faces",
        "postgresql://u:s3cr@[db.example/faces",
        "postgresql://u:x/s3cr@db.example/faces",
        "host=db.example password=one s3cr",
    ],
)
def test_a_wrong_url_is_refused_without_a_word_of_its_password(url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Connections(url)

    assert "s3cr" not in str(refused.value)
    assert "postgresql://USER:PASSWORD@HOST:PORT/NAME" in refused.value.message


def _be_impatient(gallery: PostgresGallery, seconds: float) -> None:
    connections = gallery._store.connections
    connections._patience_s = seconds
    for connection in connections._free:
        connection.patience_s = seconds


@contextmanager
def _commits(run: Callable[[PatientConnection], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The next commit goes like this; those after it as usual."""
    usual, turns = database._Commit.run, iter([run])

    def once(self: database._Commit) -> None:
        turn = next(turns, None)
        if turn is None:
            usual(self)
        else:
            turn(self._connection)

    with monkeypatch.context() as patched:
        patched.setattr(database._Commit, "run", once)
        yield


def _done_and_cut_off(connection: PatientConnection) -> None:
    connection.execute("COMMIT")
    connection.close()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


def _cut_off_before(connection: PatientConnection) -> None:
    connection.close()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


def test_a_commit_whose_answer_was_lost_is_looked_for_and_acknowledged(
    gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _commits(_done_and_cut_off, monkeypatch):
        stored = gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 1)))

    assert [face.face_id for face in gallery.subject("lab", "Ann").faces] == [stored[0].face_id]
    assert gallery.size("lab") == 1


def test_a_commit_that_never_came_is_told_as_one_that_changed_nothing(
    gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _commits(_cut_off_before, monkeypatch), pytest.raises(GalleryUnavailableError) as refused:
        gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 1)))

    assert refused.value.details["outcome"] == "nothing changed"
    with pytest.raises(NotFoundError):
        gallery.subject("lab", "Ann")


def test_a_commit_of_which_nothing_can_be_known_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_SETTLE_S", 0.5)
    with running() as cluster, closing(Postgres(tmp_path, cluster).open()) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)

        def server_gone(connection: PatientConnection) -> None:
            cluster.stop()
            _cut_off_before(connection)

        with _commits(server_gone, monkeypatch), pytest.raises(GalleryUnavailableError) as refused:
            gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 1)))

    assert refused.value.details["outcome"] == "unknown"
    assert "not known" in refused.value.message


def test_no_commit_is_acknowledged_that_the_standby_did_not_confirm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SETTLE_S", 0.5)
    with running() as cluster:
        home = Postgres(tmp_path, cluster)
        with closing(home.open()) as gallery:
            gallery.put_collection("lab", SETTINGS, MODEL)
            cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            cluster.execute("SELECT pg_reload_conf()")
            wait_until(lambda: home.execute("SHOW synchronous_standby_names") == [("nobody",)])
            outcomes: list[object] = []
            thread = threading.Thread(
                target=lambda: outcomes.extend(
                    _together(lambda: gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 1))))
                )
            )
            thread.start()
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            wait_until(lambda: home.execute(waiting))

            home.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

            thread.join()
            cluster.execute("ALTER SYSTEM RESET synchronous_standby_names")
            cluster.execute("SELECT pg_reload_conf()")
    (error,) = outcomes
    assert isinstance(error, GalleryUnavailableError)
    assert error.details["outcome"] == "unknown"


@pytest.mark.parametrize(
    ("state", "kind"),
    [("53100", StorageFullError), ("57P01", GalleryUnavailableError), ("25006", GalleryUnavailableError)],
)
def test_what_the_database_refuses_changes_nothing_and_is_told_by_its_kind(
    home: Postgres, gallery: PostgresGallery, state: str, kind: type[Exception]
) -> None:
    home.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT ON audit EXECUTE FUNCTION refuse()"
    )

    with pytest.raises(kind):
        gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))

    home.execute("DROP TRIGGER refuse ON audit")
    assert gallery.collection("lab").subjects == 0
    assert list(gallery._records.check()) == [("lab", 0)]


def test_a_url_that_is_none_or_leads_nowhere_is_one_line(tmp_path: Path) -> None:
    master = keys_of(tmp_path / "data").vault.master
    for url, kind in (
        ("postgresql://127.0.0.1:1/x", GalleryUnavailableError),
        ("postgresql://[", InvalidRequestError),
    ):
        with pytest.raises(kind) as refused:
            PostgresGallery(url, master)
        assert "\n" not in refused.value.message


# --- what others may do to the tables


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE subjects SET name = 'Eve' WHERE name = 'Ann'",
        "UPDATE subjects SET uid = reverse(uid) WHERE name = 'Ann'",
        "UPDATE faces SET quality = 0.9",
        "UPDATE faces SET subject = (SELECT id FROM subjects WHERE name = 'Bob')",
        "UPDATE faces SET vector = (SELECT vector FROM faces ORDER BY id DESC LIMIT 1)",
        "UPDATE faces SET contract_id = 'another'",
        "DELETE FROM faces WHERE id = (SELECT min(id) FROM faces)",
        "DELETE FROM faces; DELETE FROM subjects",
        "UPDATE collections SET retention_days = 1",
        "UPDATE collections SET tally = decode(repeat('00', 32), 'hex')",
        "UPDATE keyring SET wrapped = decode(repeat('00', 60), 'hex')",
    ],
)
def test_a_row_that_was_changed_or_removed_by_hand_is_found(
    home: Postgres, gallery: PostgresGallery, edit: str
) -> None:
    gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 2)))
    gallery.enrol("lab", CONTRACT, "Bob", new_faces(units(2, 2)))
    assert list(gallery._records.check()) == [("lab", 4)]

    home.execute(edit)

    with closing(home.open()) as after, pytest.raises(StorageError, match=r"damaged|another master key"):
        list(after._records.check())


def test_a_vector_in_another_persons_row_names_nobody(home: Postgres, gallery: PostgresGallery) -> None:
    for name, seed in (("Ann", 1), ("Bob", 2)):
        gallery.enrol("lab", CONTRACT, name, new_faces(units(seed, 1)))
    home.execute("UPDATE faces f SET vector = o.vector, code = o.code FROM faces o WHERE o.id <> f.id")

    with pytest.raises(StorageError, match="damaged"):
        gallery.search("lab", CONTRACT, units(1, 1)[0], 1)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 3",
        "UPDATE audit SET detail = (SELECT detail FROM audit WHERE seq = 1) WHERE seq = 3",
        "UPDATE audit_head SET seq = 2",
    ],
)
def test_an_entry_of_the_log_that_was_changed_is_found(home: Postgres, gallery: PostgresGallery, edit: str) -> None:
    for seed in range(2):
        gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(seed, 1)))
    assert gallery.audit.verify().last == 3

    home.execute(edit)

    with pytest.raises(BrokenChainError):
        gallery.audit.verify()


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE api_keys SET scopes = '[\"admin\"]'",
        "UPDATE api_keys SET revoked_at = NULL",
        "DELETE FROM api_keys",
        "UPDATE key_state SET tally = decode(repeat('00', 16), 'hex')",
    ],
)
def test_keys_that_were_changed_by_hand_open_nothing(home: Postgres, gallery: PostgresGallery, edit: str) -> None:
    key, _ = gallery.keys.create(KeyGrant("door", frozenset({"identify"})), "cli")
    gallery.keys.revoke(key.id, "cli")

    home.execute(edit)

    with pytest.raises(StorageError, match="damaged"):
        home.open()


# --- what lies in the files


def test_no_vector_lies_in_the_files_of_the_database_as_it_is(
    home: Postgres, gallery: PostgresGallery, cluster: Cluster
) -> None:
    gallery.put_collection("crops", CollectionSettings("p", store_crops=True), MODEL)
    crop = np.random.default_rng(1).bytes(3000)
    vectors = units(12345, 3)
    gallery.enrol("crops", CONTRACT, "Ann", [new_face(vector, crop=crop) for vector in vectors])
    gallery.search("crops", CONTRACT, vectors[0], 5)
    sealed = [bytes(each) for row in home.execute("SELECT vector, crop FROM faces") for each in row]  # type: ignore[call-overload]
    gallery.erase("crops", "Ann")
    cluster.execute("CHECKPOINT")

    ((oid,),) = home.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
    folders = (cluster.folder / "base" / str(oid), cluster.folder / "pg_wal")
    files = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]

    assert all(
        any(needle[:64] in content for content in files) for needle in sealed
    )  # else the next line proves nothing
    plain = [vector.astype(kind).tobytes() for vector in vectors for kind in ("<f4", "<f2", ">f2", "<f8")]
    plain += [crop[start : start + 200] for start in range(0, len(crop), 200)]
    assert not any(needle in content for needle in plain for content in files)


def test_codes_keep_angles_and_fit_no_other_collection() -> None:
    vectors = units(3, 40, 128)
    one, two = (Rotation(bytes([seed]) * 32, 128) for seed in (1, 2))
    codes = np.array([np.fromstring(code[1:-1], sep=",") for code in one.codes(vectors)])
    again = np.array([np.fromstring(code[1:-1], sep=",") for code in Rotation(bytes([1]) * 32, 128).codes(vectors)])
    others = np.array([np.fromstring(code[1:-1], sep=",") for code in two.codes(vectors)])

    np.testing.assert_array_equal(codes, again)
    assert np.abs(codes @ codes.T - vectors @ vectors.T).max() < ERROR
    for foreign in (others, vectors):
        assert np.abs(np.sum(codes * foreign, axis=1)).max() < 0.5


# --- indexes


def _crowd(people: int, faces: int, dimension: int) -> np.ndarray:
    """(people, faces, dimension): people with several noisy faces each."""
    rng = np.random.default_rng(7)
    centres = l2_normalize(rng.normal(size=(people, dimension))).repeat(faces, axis=0)
    noisy = centres + rng.normal(size=centres.shape) * 0.9 / np.sqrt(dimension)
    return l2_normalize(noisy).reshape(people, faces, dimension)


@pytest.fixture
def indexed(home: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PostgresGallery, np.ndarray]]:
    """A gallery with a collection `large` of 400 people with five faces each, indexed."""
    monkeypatch.setattr(indexes, "INDEX_FROM", 1000)
    home.execute(f"ALTER DATABASE {home.database} SET enable_seqscan = off")  # so few would not be worth an index
    crowd = _crowd(400, 5, LARGE.dimension)
    with closing(home.open()) as gallery:
        gallery.put_collection("large", SETTINGS, LARGE)
        for number, vectors in enumerate(crowd):
            gallery.enrol("large", LARGE.contract_id, f"person {number}", new_faces(vectors))
        gallery.tidy()
        wait_until(
            lambda: home.execute(
                "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                " WHERE c.relname LIKE '%by_code' AND i.indisvalid"
            )
        )
        yield gallery, crowd
    home.execute(f"ALTER DATABASE {home.database} RESET enable_seqscan")


def test_a_large_collection_is_searched_by_its_index_and_answered_exactly(
    home: Postgres, indexed: tuple[PostgresGallery, np.ndarray]
) -> None:
    gallery, crowd = indexed
    probes = np.stack([near(crowd[number, 0], number, 0.5) for number in range(60)])
    used = "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%by_code'"

    found = [gallery.search("large", LARGE.contract_id, probe, 5)[0] for probe in probes]

    exact = np.stack([(crowd @ probe).max(axis=1) for probe in probes])  # (probes, people)
    hits = 0
    for matches, scores in zip(found, exact, strict=True):
        best = {f"person {number}" for number in np.argsort(-scores)[:5]}
        hits += len(best & {match.subject for match in matches})
        for match in matches:
            assert match.similarity == pytest.approx(scores[int(match.subject.split()[1])], abs=1e-5)
    assert hits >= 0.98 * 5 * len(probes)
    wait_until(lambda: (home.execute(used)[0][0] or 0) >= len(probes))


def test_an_index_knows_who_came_and_who_went_since(indexed: tuple[PostgresGallery, np.ndarray]) -> None:
    gallery, crowd = indexed
    probe = crowd[0, 0]
    gallery.erase("large", "person 0")
    assert "person 0" not in {match.subject for match in gallery.search("large", LARGE.contract_id, probe, 50)[0]}

    gallery.enrol("large", LARGE.contract_id, "new", new_faces([near(probe, seed, 0.2) for seed in range(300)]))

    matches, size = gallery.search("large", LARGE.contract_id, probe, 3)
    assert (len(matches), matches[0].subject, size) == (3, "new", 399 * 5 + 300)  # the crowd of one fills no list
    everybody, _ = gallery.search("large", LARGE.contract_id, probe, 1000)
    assert len({match.subject for match in everybody}) == 400


def test_a_collection_can_be_erased_while_its_index_is_being_built(
    home: Postgres, gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 10)))
    monkeypatch.setattr(indexes, "INDEX_FROM", 5)
    with psycopg.connect(home.url) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")  # building waits for everybody who sees an older state
        gallery.tidy()
        wait_until(lambda: home.execute("SELECT 1 FROM pg_stat_progress_create_index"))

        assert len(gallery.erase("lab").face_ids) == 10

    assert gallery.collections() == []
    assert home.execute("SELECT relname FROM pg_class WHERE relname LIKE 'faces_%by_code'") == []


def test_closing_gives_up_an_index_that_is_being_built_and_the_next_server_builds_it(
    home: Postgres, gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enrol("lab", CONTRACT, "Ann", new_faces(units(1, 10)))
    with psycopg.connect(home.url) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")  # before anybody begins to build
        monkeypatch.setattr(indexes, "INDEX_FROM", 5)
        with closing(home.open()):  # looks at once
            wait_until(lambda: home.execute("SELECT 1 FROM pg_stat_progress_create_index"))

    def valid() -> bool:  # the database may notice a moment later that the short one is gone
        gallery.indexes.build_due()
        return home.execute(
            "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = indexrelid WHERE relname LIKE '%by_code'"
        ) == [(True,)]

    wait_until(valid)
    assert gallery.indexes.build_due() == []


def test_each_collection_has_a_partition_that_goes_with_it(home: Postgres, gallery: PostgresGallery) -> None:
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'faces'::regclass"
    gallery.put_collection("gate", SETTINGS, MODEL)
    assert home.execute(partitions) == [(2,)]

    gallery.erase("gate")

    assert home.execute(partitions) == [(1,)]
    assert home.execute("SELECT count(*) FROM keyring") == [(1,)]
