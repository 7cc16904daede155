"""An embedded gallery copied into PostgreSQL: the same people, however often it was stopped on the way."""

import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from engines import Postgres
from enrolment import MODEL, SETTINGS, new_face, new_faces, units
from galleries import keys_of, open_gallery
from live_server import command, environment
from postgres_server import Cluster

from service.domain import CollectionSettings, ModelInfo
from service.errors import StorageError
from service.gallery.embedded import EmbeddedGallery
from service.gallery.folder import MOVED
from service.gallery.postgres.gallery import PostgresGallery
from service.security.keys import KeyGrant

CONTRACT = MODEL.contract_id
DOOR = CollectionSettings("door", 30, True, 0.001, True)
OTHER = ModelInfo("other", "f" * 16, 8)


def _fill(folder: Path, people: int) -> None:
    """Two collections with crops, consents, somebody without a face, and two keys, one of them revoked."""
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("door", DOOR, MODEL)
        gallery.put_collection("gate", SETTINGS, OTHER)
        gallery.put_collection("empty", SETTINGS, MODEL)
        _fill_switched(gallery)
        for number in range(people):
            crop = bytes([number % 256]) * 50 if number % 3 else None
            faces = [new_face(vector, number / people, f"form {number}", crop) for vector in units(number, 2)]
            gallery.enrol("door", CONTRACT, f"person {number} Zoë", faces)
        gallery.enrol("gate", OTHER.contract_id, "Ann", new_faces(units(1, 3, 8)))
        (face,) = gallery.enrol("gate", OTHER.contract_id, "Bob", new_faces(units(2, 1, 8)))
        gallery.erase("gate", "Bob", face.face_id)
        gallery.keys.create(KeyGrant("camera", frozenset({"identify"}), frozenset({"door"})), "cli")
        key, _ = gallery.keys.create(KeyGrant("old", frozenset({"admin"})), "cli")
        gallery.keys.revoke(key.id, "cli")


def _fill_switched(gallery: EmbeddedGallery) -> None:
    """A collection with a face from before a change of its model, and one from after it."""
    gallery.put_collection("switched", DOOR, MODEL)
    gallery.enrol("switched", CONTRACT, "Ann", [new_face(units(1, 1)[0], crop=b"Ann")])
    assert gallery.switch("switched", OTHER, lambda crops: list(units(3, len(crops), 8)))
    gallery.enrol("switched", OTHER.contract_id, "Bob", [new_face(units(4, 1, 8)[0], crop=b"Bob")])


def _migrate(folder: Path, url: str) -> subprocess.Popen[str]:
    arguments = command("gallery", "migrate", "--to", url, "--data-dir", str(folder))
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )


def _same(folder: Path, url: str) -> None:
    """Everything that one tells of people, keys and searches, the other does."""
    (folder / MOVED).unlink(missing_ok=True)
    with (
        closing(open_gallery(folder)) as before,
        closing(PostgresGallery(url, keys_of(folder).vault.master)) as after,
    ):
        assert after.collections() == before.collections()
        assert after.keys.list() == before.keys.list()
        for collection in before.collections():
            name, contract = collection.name, collection.model.contract_id
            page = before.subjects(name, "", 1000)
            assert after.subjects(name, "", 1000) == page
            for person in page.subjects:
                one, other = before.export(name, person.name), after.export(name, person.name)
                assert (other.subject, other.crops) == (one.subject, one.crops)
                assert before._records.uids(name, person.name)[1] == _uid(after, name, person.name)
                for face_id, vector in one.vectors.items():
                    np.testing.assert_array_equal(other.vectors[face_id], vector)
            for probe in units(99, 5, collection.model.dimension):
                found, size = after.search(name, contract, probe, 3)
                expected, count = before.search(name, contract, probe, 3)
                assert (size, [each.face_id for each in found]) == (count, [each.face_id for each in expected])
        assert sum(count for _, count in after._records.check()) == sum(each.faces for each in before.collections())
        after.audit.verify()
        before.audit.verify()


def _uid(gallery: PostgresGallery, collection: str, subject: str) -> str:
    return gallery._records.look_up_subject(gallery._records.look_up(collection), subject).uid


def test_a_gallery_is_copied_with_its_keys_and_is_the_same(tmp_path: Path, cluster: Cluster) -> None:
    folder, url = tmp_path / "data", cluster.url(cluster.new_database())
    _fill(folder, 30)
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as files:
        newest = files.execute("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1").fetchone()

    with _migrate(folder, url) as run:
        out, err = run.communicate(timeout=60)

    assert run.returncode == 0, err
    assert "door: 30 people, 60 faces, digest " in out
    assert "gate: 2 people, 3 faces, digest " in out
    assert "switched: 2 people, 2 faces, digest " in out
    _same(folder, url)
    with closing(PostgresGallery(url, keys_of(folder).vault.master)) as gallery:
        first = gallery.audit.page(2, 1)[0]
        assert gallery.switch("switched", MODEL, lambda crops: list(units(5, len(crops))))
        assert gallery.search("switched", CONTRACT, units(5, 2)[0], 1)[0][0].subject == "Ann"
    assert first["event"] == "store.migrate"
    assert (first["detail"]["entry"], first["detail"]["tag"]) == (newest[0], newest[1].hex())


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_a_copy_that_is_killed_goes_on_where_it_was(tmp_path: Path, cluster: Cluster, kills: int) -> None:
    folder, home = tmp_path / "data", Postgres(tmp_path, cluster)
    _fill(folder, 450)
    chance, parts = random.Random(3), []

    for _ in range(kills):
        with _migrate(folder, home.url) as run:
            end = time.monotonic() + 30
            while _copied(home) in (None, *parts) and time.monotonic() < end and run.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.random() / 20)
            run.kill()
        parts.append(_copied(home))
        if parts[-1] is not None and _unfinished(home):
            with pytest.raises(StorageError, match="not all of it is there"):
                home.open()
    with _migrate(folder, home.url) as run:
        _, err = run.communicate(timeout=90)

    assert run.returncode == 0, err
    assert parts[0] is not None
    assert 0 < parts[0] < 450
    _same(folder, home.url)


def _copied(home: Postgres) -> int | None:
    """People that are there; None before there are any tables."""
    if home.execute("SELECT to_regclass('facesphere.subjects')") == [(None,)]:
        return None
    return int(str(home.execute("SELECT count(*) FROM subjects")[0][0])) or None


def _unfinished(home: Postgres) -> bool:
    return home.execute("SELECT migrating FROM store") != [(None,)]


def test_a_database_with_another_gallery_in_it_is_refused_in_one_line(tmp_path: Path, cluster: Cluster) -> None:
    folder, home = tmp_path / "data", Postgres(tmp_path, cluster)
    _fill(folder, 1)
    with closing(home.open()) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)

    with _migrate(folder, home.url) as run:
        _, err = run.communicate(timeout=60)

    assert run.returncode == 2
    assert err == "Error: the database has another gallery in it: name an empty one\n"


def test_a_copy_that_is_not_the_same_is_not_taken_for_done(tmp_path: Path, cluster: Cluster) -> None:
    folder, home = tmp_path / "data", Postgres(tmp_path, cluster)
    _fill(folder, 5)
    with _migrate(folder, home.url) as run:
        run.communicate(timeout=60)
    _as_if_stopped_before_the_end(folder, home)
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("door", "person 3 Zoë")

    with _migrate(folder, home.url) as run:
        _, err = run.communicate(timeout=60)

    assert run.returncode == 2
    assert "collection door is not the same on both sides: 4 people and 8 faces here, 5 and 10 there" in err
    assert _unfinished(home)


def test_a_collection_that_was_erased_since_the_copy_was_begun_is_not_brought_over(
    tmp_path: Path, cluster: Cluster
) -> None:
    folder, home = tmp_path / "data", Postgres(tmp_path, cluster)
    _fill(folder, 5)
    with _migrate(folder, home.url) as run:
        run.communicate(timeout=60)
    _as_if_stopped_before_the_end(folder, home)
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("door")

    with _migrate(folder, home.url) as run:
        _, err = run.communicate(timeout=60)

    assert run.returncode == 2
    assert "collection door is on one side only" in err
    assert _unfinished(home)


def test_a_key_that_was_revoked_since_the_copy_was_begun_stays_revoked(tmp_path: Path, cluster: Cluster) -> None:
    folder, home = tmp_path / "data", Postgres(tmp_path, cluster)
    _fill(folder, 2)
    with _migrate(folder, home.url) as run:
        run.communicate(timeout=60)
    _as_if_stopped_before_the_end(folder, home)
    with closing(open_gallery(folder)) as gallery:
        usable = next(key for key in gallery.keys.list() if key.revoked_at is None)
        gallery.keys.revoke(usable.id, "cli")

    with _migrate(folder, home.url) as run:
        _, err = run.communicate(timeout=60)

    assert run.returncode == 0, err
    with closing(home.open()) as gallery:
        assert gallery.keys.find(usable.id).revoked_at is not None


def test_files_that_were_copied_are_not_served_any_more(tmp_path: Path, cluster: Cluster) -> None:
    folder, home = tmp_path / "data", Postgres(tmp_path, cluster)
    _fill(folder, 1)
    with _migrate(folder, home.url) as run:
        run.communicate(timeout=60)

    with pytest.raises(StorageError, match="was moved to PostgreSQL"):
        open_gallery(folder)

    (folder / MOVED).unlink()
    open_gallery(folder).close()


def _as_if_stopped_before_the_end(folder: Path, home: Postgres) -> None:
    home.execute("UPDATE store SET migrating = (SELECT detail::json ->> 'source' FROM audit WHERE seq = 1)")
    (folder / MOVED).unlink()
