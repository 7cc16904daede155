"""Signatures of bundles, and bundles as one file: what was changed is refused before it is parsed."""

import base64
import hashlib
import io
import json
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import archive, signing
from models.archive import ArchiveError
from models.bundle import Licence, Manifest, Provenance, seal
from models.errors import FaceError, InvalidBundleError, SourceError
from models.registry import Registry
from models.runtime import Session, SessionOptions


def _model(external: bool = False) -> bytes:
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", "../../../secret.bin"
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def _manifest(model: bytes, name: str = "mean") -> Manifest:
    return seal(
        Manifest(
            id=name,
            kind="embedder",
            model_sha256=hashlib.sha256(model).hexdigest(),
            input={"width": 16, "height": 16, "channels": "rgb"},  # type: ignore[arg-type]
            template="arcface",
            dimension=3,
            licence=Licence(spdx="MIT", commercial_use=True),
            provenance=Provenance(origin="a test"),
        )
    )


@pytest.fixture
def mine(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "mine")
    registry.add(_model(), _manifest(_model()), "# mean")
    return registry


@pytest.fixture
def theirs(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "theirs")


def _folder(tmp_path: Path) -> Path:
    return tmp_path / "mine" / "bundles" / "mean"


def test_what_is_added_is_signed_by_a_key_that_only_its_owner_can_read(mine: Registry, tmp_path: Path) -> None:
    key = tmp_path / "mine" / "signing.pem"

    assert mine.resolve("embedder", "mean").manifest.id == "mean"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert mine.signers("mean") == signing.read_trust(tmp_path / "mine").keys


def test_the_key_is_made_once(mine: Registry, tmp_path: Path) -> None:
    other = _manifest(_model(), "other")
    mine.add(_model(), other)

    assert mine.signers("other") == mine.signers("mean")


def _edit_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["licence"]["commercial_use"] = False  # no part of the contract, which would tell by itself
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _edit_card(folder: Path) -> None:
    (folder / "card.md").write_text("# better than it is")


def _remove_card(folder: Path) -> None:
    (folder / "card.md").unlink()


def _swap_signature(folder: Path) -> None:
    signed = json.loads((folder / "signature.json").read_text())
    signed["signatures"][0]["signature"] = base64.b64encode(bytes(64)).decode()
    (folder / "signature.json").write_text(json.dumps(signed))


@pytest.mark.parametrize("change", [_edit_manifest, _edit_card, _remove_card, _swap_signature])
def test_what_was_changed_after_it_was_signed_is_not_loaded(
    mine: Registry, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(_folder(tmp_path))

    with pytest.raises(InvalidBundleError, match="was changed after it was signed") as caught:
        mine.resolve("embedder", "mean")
    assert "\n" not in caught.value.message


def test_another_model_under_a_good_manifest_is_not_loaded(mine: Registry, tmp_path: Path) -> None:
    (_folder(tmp_path) / "model.onnx").write_bytes(_model() + b"\0")

    with pytest.raises(InvalidBundleError, match="has the digest"):
        mine.resolve("embedder", "mean")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1, "signatures": [{}]}', "\0"])
def test_a_damaged_signature_is_one_line(mine: Registry, tmp_path: Path, text: str) -> None:
    (_folder(tmp_path) / "signature.json").write_text(text)

    with pytest.raises(InvalidBundleError, match="signature of model mean is damaged"):
        mine.resolve("embedder", "mean")


def test_a_bundle_without_a_signature_is_loaded_unless_they_are_required(mine: Registry, tmp_path: Path) -> None:
    (_folder(tmp_path) / "signature.json").unlink()
    assert mine.resolve("embedder", "mean").manifest.id == "mean"

    trust = signing.read_trust(tmp_path / "mine")
    signing.write_trust(tmp_path / "mine", trust.model_copy(update={"require_signatures": True}))

    with pytest.raises(InvalidBundleError, match="is not signed, and this registry requires signatures"):
        mine.resolve("embedder", "mean")


def test_where_signatures_are_required_one_of_a_stranger_is_none(
    mine: Registry, theirs: Registry, tmp_path: Path
) -> None:
    theirs.add(_model(), _manifest(_model(), "other"))
    shutil.copytree(_folder(tmp_path), tmp_path / "theirs" / "bundles" / "mean")
    assert theirs.resolve("embedder", "mean").manifest.id == "mean"
    trust = signing.read_trust(tmp_path / "theirs")
    signing.write_trust(tmp_path / "theirs", trust.model_copy(update={"require_signatures": True}))

    with pytest.raises(InvalidBundleError, match="which is not trusted here"):
        theirs.resolve("embedder", "mean")
    theirs.trust(mine.signers("mean")[0])
    assert theirs.resolve("embedder", "mean").manifest.id == "mean"


def test_a_new_manifest_is_signed_anew(mine: Registry) -> None:
    changed = _manifest(_model()).model_copy(update={"metrics": {"accuracy": 0.5}})

    mine.replace_manifest(changed)

    assert mine.resolve("embedder", "mean").manifest.metrics == {"accuracy": 0.5}


def test_while_a_manifest_is_replaced_both_are_vouched_for(mine: Registry, tmp_path: Path) -> None:
    """Stopped between the two writes, the registry must not lock itself out of its own model."""
    folder = _folder(tmp_path)
    old = (folder / "manifest.json").read_bytes()
    signed = (folder / "signature.json").read_bytes()
    mine.replace_manifest(_manifest(_model()).model_copy(update={"metrics": {"accuracy": 0.5}}))
    both = [*signing.parse("mean", signed).signatures]
    both += signing.parse("mean", (folder / "signature.json").read_bytes()).signatures
    (folder / "signature.json").write_text(signing.dump(*both))

    assert mine.resolve("embedder", "mean").manifest.metrics == {"accuracy": 0.5}
    (folder / "manifest.json").write_bytes(old)
    assert mine.resolve("embedder", "mean").manifest.metrics == {}


def test_a_changed_bundle_is_not_signed_anew(mine: Registry, tmp_path: Path) -> None:
    _edit_manifest(_folder(tmp_path))

    with pytest.raises(InvalidBundleError, match="was changed after"):
        mine.replace_manifest(_manifest(_model()).model_copy(update={"metrics": {"accuracy": 0.5}}))


# One file.


def _exported(mine: Registry, tmp_path: Path) -> Path:
    archive.export_bundle(mine, "mean", tmp_path / "mean.tar")
    return tmp_path / "mean.tar"


def test_a_bundle_goes_from_one_registry_to_another_in_one_file(
    mine: Registry, theirs: Registry, tmp_path: Path
) -> None:
    file = _exported(mine, tmp_path)

    bundle = archive.import_bundle(theirs, file, mine.signers("mean")[0])

    assert bundle.manifest == mine.resolve("embedder", "mean").manifest
    assert theirs.resolve("embedder", "mean").card() == "# mean"
    assert theirs.standing(bundle.manifest) == "candidate"
    assert theirs.signers("mean") == mine.signers("mean")


def test_a_file_of_a_key_that_is_not_trusted_is_refused_and_leaves_nothing(
    mine: Registry, theirs: Registry, tmp_path: Path
) -> None:
    file = _exported(mine, tmp_path)

    with pytest.raises(InvalidBundleError, match="is not trusted here"):
        archive.import_bundle(theirs, file)
    assert theirs.list() == []


def test_a_text_that_has_not_signed_the_file_is_not_kept_as_a_key_to_trust(
    mine: Registry, theirs: Registry, tmp_path: Path
) -> None:
    file = _exported(mine, tmp_path)
    theirs.trust(mine.signers("mean")[0])
    before = theirs.trusted()

    with pytest.raises(InvalidBundleError):
        archive.import_bundle(theirs, file, "total junk")

    assert theirs.trusted() == before
    assert theirs.list() == []


def test_a_sparse_member_whose_map_makes_no_sense_is_one_line(mine: Registry, theirs: Registry, tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        member = tarfile.TarInfo("manifest.json")
        member.pax_headers = {"GNU.sparse.map": "0,a"}
        packed.addfile(member, io.BytesIO(b""))

    with pytest.raises(ArchiveError, match="damaged or no file of a model"):
        archive.import_bundle(theirs, path)


def _repacked(file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with tarfile.open(file) as packed:
        parts = {member.name: packed.extractfile(member).read() for member in packed}  # type: ignore[union-attr]
    change(parts)
    with tarfile.open(file, "w") as packed:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return file


def _other_model(parts: dict[str, bytes]) -> None:
    parts["model.onnx"] += b"\0"


def _other_card(parts: dict[str, bytes]) -> None:
    parts["card.md"] = b"# better"


def _outside(parts: dict[str, bytes]) -> None:
    parts["../outside"] = b"x"


def _no_signature(parts: dict[str, bytes]) -> None:
    del parts["signature.json"]


def _long_card(parts: dict[str, bytes]) -> None:
    parts["card.md"] = bytes(2**20)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_other_model, "has the digest"),
        (_other_card, "was changed after it was signed"),
        (_outside, "which no model has"),
        (_no_signature, "holds no signature.json"),
        (_long_card, "is longer than"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(
    mine: Registry, theirs: Registry, tmp_path: Path, change: Callable[[dict[str, bytes]], None], says: str
) -> None:
    file = _repacked(_exported(mine, tmp_path), change)

    with pytest.raises(FaceError, match=says) as caught:
        archive.import_bundle(theirs, file, mine.signers("mean")[0])
    assert "\n" not in caught.value.message
    assert theirs.list() == []
    assert not (tmp_path / "outside").exists()


def test_a_link_in_a_file_is_refused(mine: Registry, theirs: Registry, tmp_path: Path) -> None:
    file = tmp_path / "link.tar"
    with tarfile.open(file, "w") as packed:
        member = tarfile.TarInfo("model.onnx")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(member)

    with pytest.raises(ArchiveError, match="which no model has"):
        archive.import_bundle(theirs, file)


@pytest.mark.parametrize("data", [b"", b"no archive", bytes(2**16)])
def test_what_is_no_file_of_a_model_is_one_line(theirs: Registry, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)

    with pytest.raises(ArchiveError) as caught:
        archive.import_bundle(theirs, tmp_path / "x.tar")
    assert "\n" not in caught.value.message


def test_every_cut_of_a_file_is_refused(mine: Registry, theirs: Registry, tmp_path: Path) -> None:
    whole = _exported(mine, tmp_path).read_bytes()
    model_ends = whole.index(_model()) + len(_model())
    for length in range(0, model_ends, 97):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises((ArchiveError, SourceError)):
            archive.import_bundle(theirs, tmp_path / "cut.tar", mine.signers("mean")[0])
    assert theirs.list() == []


def test_a_file_is_not_written_over_another(mine: Registry, tmp_path: Path) -> None:
    file = _exported(mine, tmp_path)

    with pytest.raises(SourceError, match="is there already"):
        archive.export_bundle(mine, "mean", file)


def test_a_model_that_keeps_weights_in_other_files_is_refused_before_the_runtime_parses_it(
    theirs: Registry, tmp_path: Path
) -> None:
    model = _model(external=True)
    assert onnx.load_model_from_string(model).graph.initializer[0].external_data
    bad = Registry(tmp_path / "bad")
    bad.add(model, _manifest(model))
    archive.export_bundle(bad, "mean", tmp_path / "bad.tar")

    with pytest.raises(InvalidBundleError, match="keeps its weights in other files"):
        archive.import_bundle(theirs, tmp_path / "bad.tar", bad.signers("mean")[0])
    with pytest.raises(InvalidBundleError, match="keeps its weights in other files"):
        Session(bad.resolve("embedder", "mean").model_path, SessionOptions("cpu"))
    assert theirs.list() == []


def test_a_place_that_cannot_be_written_is_one_line(mine: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SourceError, match="cannot write"):
        archive.export_bundle(mine, "mean", tmp_path / "file" / "mean.tar")
