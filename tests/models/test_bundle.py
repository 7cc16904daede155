"""Manifests and bundles: what is read back is what was written, and nothing damaged is taken."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models import bundle as bundles
from models import zoo
from models.bundle import Manifest, contract_id, seal
from models.errors import InvalidBundleError

MODEL = b"not a network, but bytes with a digest"

FIELDS: dict[str, Any] = {
    "id": "test-embedder",
    "kind": "embedder",
    "architecture": "größer als ein ASCII-Text",
    "model_sha256": hashlib.sha256(MODEL).hexdigest(),
    "input": {"width": 112, "height": 112, "channels": "rgb", "mean": [127.5] * 3, "std": [128.0] * 3},
    "template": "arcface",
    "dimension": 128,
    "licence": {"spdx": "Apache-2.0", "commercial_use": True, "note": "ñ"},
    "provenance": {"origin": "a test"},
    "metrics": {"tar": 0.987},
    "calibration": {
        "data": "made up",
        "people": 10,
        "images": 20,
        "genuine_pairs": 10,
        "impostor_pairs": 180,
        "points": [
            {
                "fmr": fmr,
                "threshold": t,
                "threshold_low": t,
                "threshold_high": t,
                "tar": 0.9,
                "tar_low": 0.8,
                "tar_high": 1,
            }
            for fmr, t in ((0.1, 0.2), (0.01, 0.3))
        ],
        "logistic": {"slope": 20, "intercept": -5},
        "tail": {"fmr": 0.01, "threshold": 0.3, "scale": 0.05, "shape": -0.1},
    },
}


def _manifest(**changes: Any) -> Manifest:
    return seal(Manifest.model_validate({**FIELDS, **changes}))


def _write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / bundles.MANIFEST
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(bundles.manifest_json(_manifest())), **changes}


def test_a_bundle_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = _manifest()
    written = bundles.write(tmp_path, MODEL, manifest)
    assert written.manifest == manifest
    assert bundles.load(tmp_path) == written
    assert written.model_path.read_bytes() == MODEL


def test_writing_a_manifest_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = bundles.manifest_json(_manifest())
    path = tmp_path / "manifest.json"
    path.write_text(first, encoding="utf-8")
    assert bundles.manifest_json(bundles.read_manifest(path)) == first


def test_operating_points_given_as_a_tuple_make_the_same_manifest() -> None:
    calibration = {**FIELDS["calibration"], "points": tuple(FIELDS["calibration"]["points"])}
    assert _manifest(calibration=calibration) == _manifest()


@pytest.mark.parametrize(
    "place", [(), ("input",), ("licence",), ("provenance",), ("calibration",), ("calibration", "points", 0)]
)
def test_an_unknown_key_is_refused_by_name_wherever_it_is(tmp_path: Path, place: tuple[Any, ...]) -> None:
    document: Any = _document()
    inner = document
    for key in place:
        inner = inner[key]
    inner["surprise"] = 1
    with pytest.raises(InvalidBundleError, match="surprise"):
        bundles.read_manifest(_write(tmp_path, document))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("id", "Über"),
        ("id", "../up"),
        ("id", ".hidden"),
        ("id", ""),
        ("id", "a" * 65),
        ("kind", "classifier"),
        ("model_sha256", "ABC"),
        ("dimension", 1),
        ("dimension", None),
        ("dimension", "many"),
        ("template", None),
        ("template", "dlib"),
        ("template", "sphereface"),
        ("licence", None),
        ("metrics", {"tar": "good"}),
        ("mirror", "sideways"),
        ("input", {"width": 112, "height": 112, "channels": "grey"}),
        ("input", {"width": 8, "height": 112, "channels": "rgb"}),
        ("input", {"width": 112, "height": 112, "channels": "rgb", "std": [1, 0, 1]}),
        ("input", {"width": 112, "height": 112, "channels": "rgb", "std": [1, -1, 1]}),
        ("input", {"width": 112, "height": 112, "channels": "rgb", "mean": [1, 1]}),
    ],
)
def test_a_field_that_is_wrong_is_refused_in_one_line(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(InvalidBundleError) as caught:
        bundles.read_manifest(_write(tmp_path, _document(**{field: value})))
    assert "\n" not in caught.value.message
    assert "contract_id" not in caught.value.message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: str) -> None:
    text = json.dumps(_document()).replace("0.987", number)
    path = tmp_path / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidBundleError):
        bundles.read_manifest(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"format": 1}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(InvalidBundleError):
        bundles.read_manifest(path)


@pytest.mark.parametrize("claimed", ["", "0" * 16, "73de7c171ce184e7"])
def test_a_contract_id_of_another_manifest_is_refused(tmp_path: Path, claimed: str) -> None:
    with pytest.raises(InvalidBundleError, match="contract_id"):
        bundles.read_manifest(_write(tmp_path, _document(contract_id=claimed)))


def test_a_field_edited_by_hand_breaks_the_contract_id(tmp_path: Path) -> None:
    document = _document()
    document["input"]["channels"] = "bgr"
    with pytest.raises(InvalidBundleError, match="contract_id"):
        bundles.read_manifest(_write(tmp_path, document))


@pytest.mark.parametrize("name", [bundles.MODEL, bundles.MANIFEST])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    bundles.write(tmp_path, MODEL, _manifest())
    (tmp_path / name).unlink()
    with pytest.raises(InvalidBundleError, match=name):
        bundles.load(tmp_path)


@pytest.mark.parametrize("damage", [MODEL[:-1], MODEL + b"\0", b"", b"N" + MODEL[1:]])
def test_a_model_that_is_not_the_one_of_the_manifest_is_refused(tmp_path: Path, damage: bytes) -> None:
    bundles.write(tmp_path, MODEL, _manifest())
    (tmp_path / bundles.MODEL).write_bytes(damage)
    with pytest.raises(InvalidBundleError, match="digest"):
        bundles.load(tmp_path)


def test_writing_a_model_under_the_manifest_of_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="digest"):
        bundles.write(tmp_path, MODEL + b"!", _manifest())


@pytest.mark.parametrize(
    "changes",
    [
        {"model_sha256": "0" * 64},
        {"dimension": 129},
        {"input": {**FIELDS["input"], "width": 224, "height": 224}},
        {"input": {**FIELDS["input"], "channels": "bgr"}},
        {"input": {**FIELDS["input"], "mean": [127.5, 127.5, 127.0]}},
        {"input": {**FIELDS["input"], "std": [128.0, 127.5, 128.0]}},
        {"template": "sphereface", "input": {**FIELDS["input"], "width": 96}},
        {"kind": "detector"},
        {"mirror": True},
        {"precision": "bfloat16"},
    ],
    ids=["weights", "dimension", "size", "channels", "mean", "std", "template", "kind", "mirror", "precision"],
)
def test_whatever_changes_a_vector_changes_the_contract(changes: dict[str, Any]) -> None:
    assert contract_id(_manifest(**changes)) != contract_id(_manifest())


def test_the_template_alone_changes_the_contract() -> None:
    other = _manifest().model_copy(update={"template": "sphereface"})
    assert contract_id(other) != contract_id(_manifest())


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "renamed"},
        {"licence": {"spdx": "MIT", "commercial_use": False}},
        {"metrics": {}},
        {"calibration": None},
        {"architecture": ""},
        {"provenance": {"origin": "elsewhere", "source": "https://example.org/x", "transform": "none"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_leaves_vectors_comparable_leaves_the_contract(changes: dict[str, Any]) -> None:
    assert contract_id(_manifest(**changes)) == contract_id(_manifest())


def test_every_field_of_a_manifest_is_known_to_change_the_contract_or_not_to() -> None:
    # A field added later must be put on one side by its author, and tested above.
    changing = {"kind", "model_sha256", "input", "template", "dimension", "mirror", "precision"}
    others = {
        "format",
        "id",
        "architecture",
        "contract_id",
        "licence",
        "provenance",
        "lineage",
        "metrics",
        "calibration",
    }
    assert set(Manifest.model_fields) == changing | others


def test_a_whole_number_and_the_same_number_with_a_point_are_one_contract() -> None:
    spec = {**FIELDS["input"], "mean": [0, 0, 0], "std": [1, 1, 1]}
    floats = {**FIELDS["input"], "mean": [0.0] * 3, "std": [1.0] * 3}
    plain = {key: value for key, value in FIELDS["input"].items() if key not in ("mean", "std")}
    assert len({contract_id(_manifest(input=each)) for each in (spec, floats, plain)}) == 1


def test_the_contract_is_a_digest_of_canonical_json() -> None:
    """Said once more in other words: a server of another version must come to the same sixteen digits."""
    spec = '"input":{"channels":"rgb","height":112,"mean":[127.5,127.5,127.5],"std":[128.0,128.0,128.0],"width":112}'
    text = (
        f'{{"dimension":128,{spec},"kind":"embedder",'
        f'"model_sha256":"{hashlib.sha256(MODEL).hexdigest()}","template":"arcface"}}'
    )
    assert contract_id(_manifest()) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_contract_from_before_there_were_mirror_images_keeps_its_name() -> None:
    assert {id_: zoo.known_manifest(id_).contract_id for id_ in zoo.default_ids()} == {
        "yunet-2023mar": "7819b59a64049439",
        "sface-2021dec": "73de7c171ce184e7",
    }
    assert contract_id(_manifest(mirror=False)) == contract_id(_manifest())


def test_mirror_is_written_only_where_it_is_on_so_that_older_servers_read_the_rest(tmp_path: Path) -> None:
    assert "mirror" not in bundles.manifest_json(_manifest())
    assert bundles.write(tmp_path, MODEL, _manifest(mirror=True)).manifest.mirror


def test_a_detector_has_no_mirror_images_to_add(tmp_path: Path) -> None:
    document = _document(kind="detector", template=None, dimension=None, mirror=True)
    with pytest.raises(InvalidBundleError, match="mirror is for embedders"):
        bundles.read_manifest(_write(tmp_path, document))


def test_a_bundle_without_a_card_has_none(tmp_path: Path) -> None:
    assert bundles.write(tmp_path, MODEL, _manifest()).card() is None


def test_a_card_reads_back_as_it_was_written_and_leaves_the_contract(tmp_path: Path) -> None:
    written = bundles.write(tmp_path, MODEL, _manifest(), "# größer\r\n\n| a |\n")
    assert written.card() == "# größer\r\n\n| a |\n"
    assert bundles.load(tmp_path).manifest == _manifest()


def test_the_longest_card_is_taken_and_one_byte_more_is_refused_both_ways(tmp_path: Path) -> None:
    longest = "é" * (bundles.MAX_CARD_BYTES // 2)
    assert bundles.write(tmp_path, MODEL, _manifest(), longest).card() == longest
    with pytest.raises(InvalidBundleError, match=r"card\.md is longer than 64 KiB"):
        bundles.write(tmp_path, MODEL, _manifest(), longest + "!")
    (tmp_path / bundles.CARD).write_text(longest + "!", encoding="utf-8")
    with pytest.raises(InvalidBundleError, match=r"card\.md is longer than 64 KiB"):
        bundles.load(tmp_path).card()


def test_a_card_that_is_no_text_is_refused_in_one_line_and_the_model_still_loads(tmp_path: Path) -> None:
    bundles.write(tmp_path, MODEL, _manifest())
    (tmp_path / bundles.CARD).write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidBundleError, match=r"card\.md is not UTF-8"):
        bundles.load(tmp_path).card()


def test_a_manifest_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _manifest().dimension = 64  # type: ignore[misc]


def test_a_detector_has_no_alignment() -> None:
    detector = _manifest(kind="detector", template=None, dimension=None)
    with pytest.raises(InvalidBundleError, match="no alignment template"):
        _ = detector.alignment


def test_an_embedders_alignment_has_the_size_of_its_input() -> None:
    alignment = _manifest(input={"width": 224, "height": 224, "channels": "rgb"}).alignment
    assert (alignment.name, alignment.width, alignment.height) == ("arcface", 224, 224)


def test_float32_leaves_contracts_and_files_as_they_were_and_bfloat16_is_another_contract(tmp_path: Path) -> None:
    assert contract_id(_manifest(precision="float32")) == contract_id(_manifest())
    assert "precision" not in bundles.manifest_json(_manifest())

    other = _manifest(precision="bfloat16")

    assert contract_id(other) != contract_id(_manifest())
    assert bundles.write(tmp_path, MODEL, other).manifest.precision == "bfloat16"
