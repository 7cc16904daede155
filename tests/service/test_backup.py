"""Backups: consistent while the server writes, checked to the last byte, and no way back for anybody who was erased."""

import json
import random
import tarfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from enrolment import MODEL, SETTINGS, files_with, new_face, new_faces, units
from galleries import keys_of, open_gallery, open_records, stored_bytes

from service.domain import CollectionSettings
from service.errors import AlreadyExistsError, InvalidRequestError, NotFoundError, StorageError
from service.gallery import backup
from service.gallery.backup import Restored, back_up, restore


def _nobody_looks(_: int, __: int) -> None:
    pass


def _fill(folder: Path, people: int = 5) -> None:
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", CollectionSettings("door", store_crops=True), MODEL)
        gallery.put_collection("gate", SETTINGS, MODEL)
        for number in range(people):
            faces = [new_face(vector, 0.5, "form", b"png") for vector in units(number, 2)]
            gallery.enrol("lab", MODEL.contract_id, f"person {number}", faces)
        gallery.enrol("gate", MODEL.contract_id, "Cid", new_faces(units(99, 1)))


def _restore(source: Path, folder: Path, in_place: bool = True) -> Restored:
    return restore(source, folder, keys_of(folder), in_place, _nobody_looks)


def _content(folder: Path) -> dict[str, Any]:
    with closing(open_gallery(folder)) as gallery:
        return {
            each.name: [
                (person, [(face, vector.tobytes()) for face, vector in _vectors(gallery, each.name, person.name)])
                for person in gallery.subjects(each.name, "", 1000).subjects
            ]
            for each in gallery.collections()
        }


def _vectors(gallery: Any, collection: str, subject: str) -> Any:
    return gallery.vectors_of(collection, MODEL.contract_id, subject)


def test_what_was_backed_up_comes_back_as_it_was(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    before = _content(folder)
    seen: list[tuple[int, int]] = []

    size = back_up(folder, file, lambda done, total: seen.append((done, total)))
    with closing(open_gallery(folder)) as gallery:
        gallery.enrol("lab", MODEL.contract_id, "too late", new_faces(units(50, 1)))
    done = _restore(file, folder)

    assert size == file.stat().st_size
    assert seen
    assert seen[-1][0] == seen[-1][1]
    assert (done.subjects, done.faces, done.erasures) == (6, 11, 0)
    assert _content(folder) == before
    assert file.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "data", "data.keys"]


def test_a_backup_goes_into_an_empty_folder_too_with_the_keys_beside_it(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    before = _content(folder)
    back_up(folder, file, _nobody_looks)
    folder.rename(tmp_path / "lost")

    _restore(file, folder, in_place=False)

    assert _content(folder) == before


def test_who_was_erased_since_does_not_come_back(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    back_up(folder, file, _nobody_looks)
    with closing(open_gallery(folder)) as gallery:
        face = gallery.subject("lab", "person 2").faces[0].face_id
        blobs = stored_bytes(folder, "person 1")
        gallery.erase("lab", "person 1")
        gallery.erase("lab", "person 2", face)
        gallery.erase("gate")
        assert any(file.read_bytes().find(blob) >= 0 for blob in blobs)  # the backup does have them

    done = _restore(file, folder)

    assert done.erasures == 3
    with closing(open_gallery(folder)) as gallery:
        assert [each.name for each in gallery.collections()] == ["lab"]
        names = [each.name for each in gallery.subjects("lab", "", 10).subjects]
        assert names == ["person 0", "person 2", "person 3", "person 4"]
        assert [each.face_id for each in gallery.subject("lab", "person 2").faces] != [face]
        assert len(gallery.subject("lab", "person 2").faces) == 1
        with pytest.raises(NotFoundError):
            gallery.subject("lab", "person 1")
    assert not any(files_with(tmp_path / "data", blob) for blob in [b"person 1", *blobs])
    _restore(file, folder)  # and not the second time either
    assert not any(files_with(tmp_path / "data", blob) for blob in [b"person 1", *blobs])


def test_a_fresh_backup_holds_nothing_of_who_was_erased(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    with closing(open_gallery(folder)) as gallery:
        blobs = stored_bytes(folder, "person 1")
        gallery.erase("lab", "person 1")

    back_up(folder, file, _nobody_looks)

    content = file.read_bytes()
    assert not any(blob in content for blob in [b"person 1", *blobs])


def test_a_backup_is_of_one_moment_however_much_is_written_meanwhile(tmp_path: Path) -> None:
    folder, stop = tmp_path / "data", threading.Event()
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        gallery.enrol("lab", MODEL.contract_id, "filler", new_faces(units(0, 3000)))

        def write() -> None:
            number = 0
            while not stop.is_set():
                gallery.enrol("lab", MODEL.contract_id, f"pair {number}", new_faces(units(number, 2)))
                if number % 3 == 2:
                    gallery.erase("lab", f"pair {number - 1}")
                number += 1

        writing = threading.Thread(target=write)
        writing.start()
        try:
            for turn in range(3):
                back_up(folder, tmp_path / f"{turn}.tar", _nobody_looks)
        finally:
            stop.set()
            writing.join()

    for turn in range(3):
        _restore(tmp_path / f"{turn}.tar", folder)
        with closing(open_gallery(folder)) as gallery:
            pairs = [each for each in gallery.subjects("lab", "", 10_000).subjects if each.name != "filler"]
            assert {each.faces for each in pairs} <= {2}


def test_a_running_gallery_is_not_restored_under_its_feet_and_none_is_replaced_unasked(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    back_up(folder, file, _nobody_looks)
    before = _content(folder)

    with closing(open_gallery(folder)), pytest.raises(StorageError, match="in use"):
        _restore(file, folder)
    with pytest.raises(AlreadyExistsError, match="--replace"):
        _restore(file, folder, in_place=False)
    with pytest.raises(AlreadyExistsError, match="there already"):
        back_up(folder, file, _nobody_looks)
    with pytest.raises(StorageError, match="no gallery"):
        back_up(tmp_path / "nowhere", tmp_path / "other.tar", _nobody_looks)

    assert _content(folder) == before


def test_the_keys_of_another_gallery_cannot_read_a_backup(tmp_path: Path) -> None:
    _fill(tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup.tar", _nobody_looks)

    with pytest.raises(StorageError):
        _restore(tmp_path / "backup.tar", tmp_path / "other")

    assert not (tmp_path / "other" / "gallery.sqlite3").exists()


@pytest.mark.parametrize("rounds", [40, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_backup_that_was_cut_off_or_changed_is_refused_and_nothing_is_lost(tmp_path: Path, rounds: int) -> None:
    folder, file, rng = tmp_path / "data", tmp_path / "backup.tar", random.Random(3)
    _fill(folder, people=2)
    back_up(folder, file, _nobody_looks)
    whole, before = file.read_bytes(), _content(folder)
    with tarfile.open(file) as tar:
        used = max(member.offset_data + member.size for member in tar.getmembers())

    for turn in range(rounds):
        if turn % 2:
            file.write_bytes(whole[: rng.randrange(used)])
        else:
            place = rng.randrange(used)
            file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
        try:
            _restore(file, folder)
        except InvalidRequestError as error:
            assert "\n" not in error.message  # noqa: PT017
        assert _content(folder) == before  # refused, or the change was in the padding of a header


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "audit/../../evil", "audit/evil.jsonl", "gallery.lock"])
def test_a_backup_cannot_write_anywhere_else(tmp_path: Path, name: str) -> None:
    file, member = tmp_path / "evil.tar", tmp_path / "member"
    member.write_bytes(b"evil")
    manifest = tmp_path / "manifest.json"
    entry = {"bytes": 4, "sha256": "0" * 64}
    manifest.write_text(json.dumps({"format": 1, "created_at": "", "files": {"gallery.sqlite3": entry, name: entry}}))
    with tarfile.open(file, "w") as tar:
        tar.add(manifest, "manifest.json")
        tar.add(member, name)

    with pytest.raises(InvalidRequestError, match="no backup, or damaged"):
        _restore(file, tmp_path / "data")

    assert not (tmp_path / "evil").exists()


def test_something_else_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" * 1000)

    for name in ("photo.jpg", "missing.tar"):
        with pytest.raises(InvalidRequestError) as refused:
            _restore(tmp_path / name, tmp_path / "data")
        assert "\n" not in refused.value.message


@pytest.mark.parametrize("moment", ["_set_aside", "overwrite"])
def test_a_restore_that_is_stopped_leaves_one_of_the_two_galleries_whole(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    back_up(folder, file, _nobody_looks)
    with closing(open_gallery(folder)) as gallery:
        gallery.enrol("lab", MODEL.contract_id, "too late", new_faces(units(50, 1)))
    before = _content(folder)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(backup, moment, stopped)
        with pytest.raises(KeyboardInterrupt):
            _restore(file, folder)

    after = _content(folder)
    if moment == "_set_aside":
        assert after == before
    else:
        assert {name: len(people) for name, people in after.items()} == {"gate": 1, "lab": 5}
    assert list(folder.glob(".scratch-*")) == []


def test_copies_that_a_killed_backup_has_left_are_gone_after_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    left = folder / ".scratch-xyz"
    left.mkdir()
    (left / "gallery.sqlite3").write_bytes((folder / "gallery.sqlite3").read_bytes())

    with closing(open_gallery(folder)) as gallery:
        blobs = stored_bytes(folder, "person 1")
        gallery.erase("lab", "person 1")

    assert not left.exists()
    assert not any(files_with(folder, blob) for blob in [b"person 1", *blobs])


def test_an_erasure_that_was_not_written_down_yet_is_before_a_restore(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.tar"
    _fill(folder)
    back_up(folder, file, _nobody_looks)
    with closing(open_records(folder / "gallery.sqlite3")) as records:
        records.erase("lab", "person 1")  # as a kill would have left it

    assert _restore(file, folder).erasures == 1
