"""facesphere gallery export-crops: crops out of either engine into a folder that can be trained on."""

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from crops import people_set
from engines import Engine, Postgres
from enrolment import MODEL, SETTINGS, new_face, units
from photos import encode

from service.__main__ import main
from service.commands import crops as command
from service.domain import CollectionSettings
from training.__main__ import main as train
from training.data.aligned import AlignedSet

DOOR = CollectionSettings("door", 30, True, 0.001)
CROPS = people_set(3, 2, 112).crops
CONSENTS = {"Ann": ("form 1", "form 1"), "Bob": (None, "form 2"), "Cid": (None, "")}
Export = Callable[..., Result]


@pytest.fixture
def faces(engine: Engine) -> dict[str, list[str]]:
    """The ids of everybody's faces, in a collection with crops, of which some came with a consent."""
    found = {}
    with closing(engine.open()) as gallery:
        gallery.put_collection("door", DOOR, MODEL)
        gallery.put_collection("gate", SETTINGS, MODEL)
        for number, (name, consents) in enumerate(CONSENTS.items()):
            new = [
                new_face(units(number, 2)[row], 0.5, consents[row], encode(np.asarray(CROPS[2 * number + row])))
                for row in range(2)
            ]
            found[name] = [each.face_id for each in gallery.enrol("door", MODEL.contract_id, name, new)]
        gallery.enrol("gate", MODEL.contract_id, "Dan", [new_face(units(9, 1)[0], 0.5, "form 3")])
    return found


@pytest.fixture
def export(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """The command, into the folder `crops`."""
    if isinstance(engine, Postgres):
        monkeypatch.setenv("FACESPHERE_GALLERY_URL", engine.url)

    def run(*options: str, collection: str = "door") -> Result:
        place = ("--out", str(tmp_path / "crops"), "--data-dir", str(tmp_path / "data"))
        return CliRunner().invoke(main, ["gallery", "export-crops", "--collection", collection, *place, *options])

    return run


def _ids(folder: Path) -> set[str]:
    return {file.stem for file in folder.rglob("*.png")}


def test_faces_with_a_consent_are_written_person_by_person_and_no_others(
    export: Export, faces: dict[str, list[str]], tmp_path: Path
) -> None:
    result = export()

    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'crops'}: 3 faces of 2 people" in result.stderr
    assert _ids(tmp_path / "crops") == {*faces["Ann"], faces["Bob"][1]}
    people = sorted(len(list(folder.iterdir())) for folder in (tmp_path / "crops").iterdir())
    assert people == [1, 2]
    assert not {"Ann", "Bob"} & {folder.name for folder in (tmp_path / "crops").iterdir()}


def test_without_asking_for_consent_all_faces_with_a_crop_are_written(
    export: Export, faces: dict[str, list[str]], tmp_path: Path
) -> None:
    assert export("--no-require-consent").exit_code == 0

    assert _ids(tmp_path / "crops") == {each for ids in faces.values() for each in ids}


def test_nobody_else_can_read_what_was_written(export: Export, faces: dict[str, list[str]], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert export().exit_code == 0
    finally:
        os.umask(before)

    paths = [tmp_path / "crops", *(tmp_path / "crops").rglob("*")]
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_the_audit_log_tells_what_left_and_names_nobody(
    export: Export, faces: dict[str, list[str]], engine: Engine
) -> None:
    assert export().exit_code == 0

    with closing(engine.open()) as gallery:
        entry = next(each for each in gallery.audit.page(None, 100) if each["event"] == "export.crops")
        gallery.audit.verify()
    assert entry["actor"] == "cli"
    assert entry["detail"]["collection"]["name"] == "door"
    assert {name: entry["detail"][name] for name in ("people", "faces", "consent_required")} == {
        "people": 2,
        "faces": 3,
        "consent_required": True,
    }


def test_the_folder_is_a_source_of_aligned_crops(export: Export, faces: dict[str, list[str]], tmp_path: Path) -> None:
    assert export().exit_code == 0

    options = ["--data", str(tmp_path / "crops"), "--out", str(tmp_path / "set"), "--aligned"]
    assert CliRunner().invoke(train, ["align", *options]).exit_code == 0

    data = AlignedSet.open(tmp_path / "set")
    place = {Path(photo).stem: row for row, photo in enumerate(data.photos)}
    np.testing.assert_array_equal(data.crops[place[faces["Ann"][1]]], CROPS[1])
    assert len(data.people) == 2


@pytest.mark.parametrize(
    ("collection", "says"),
    [
        ("gate", "collection 'gate' has no face with a stored crop and a reference to a consent"),
        ("nowhere", "there is no collection 'nowhere'"),
    ],
)
def test_where_there_is_nothing_to_write_one_line_says_why(
    export: Export, faces: dict[str, list[str]], tmp_path: Path, collection: str, says: str
) -> None:
    result = export(collection=collection)

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [f"Error: {says}"]
    assert not (tmp_path / "crops").exists()


def test_a_folder_that_is_there_is_left_alone(export: Export, faces: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()

    result = export()

    assert result.exit_code == 2
    assert "is there already; crops are written into a new folder" in result.stderr
    assert list((tmp_path / "crops").iterdir()) == []


def test_an_export_that_fails_half_way_leaves_no_crops_behind_and_is_in_the_log(
    export: Export, faces: dict[str, list[str]], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = command._write_private
    calls = iter((True, False))

    def full(path: Path, data: bytes) -> None:
        if not next(calls):
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(command, "_write_private", full)
    result = export()

    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: cannot write {tmp_path / 'crops'}: No space left on device"
    assert not list(tmp_path.rglob("*.png"))
    with closing(engine.open()) as gallery:
        assert "export.crops" in {each["event"] for each in gallery.audit.page(None, 100)}


def test_somebody_who_is_erased_meanwhile_is_left_out(
    export: Export, faces: dict[str, list[str]], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = command._write

    def erase_first(*given: object) -> list[int]:
        with closing(engine.open()) as gallery:
            gallery.erase("door", "Ann")
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_write", erase_first)
    result = export()

    assert result.exit_code == 0, result.output
    assert "1 faces of 1 people" in result.stderr
    assert _ids(tmp_path / "crops") == {faces["Bob"][1]}
