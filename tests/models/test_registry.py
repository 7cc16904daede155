"""The folder of bundles: whole after a crash at any point."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from photos import ROOT

from models import bundle as bundles
from models.bundle import Licence, Manifest, Provenance, seal
from models.errors import FaceError, InvalidBundleError, ModelNotFoundError
from models.registry import ModelExistsError, Registry


def _model(name: str) -> bytes:
    return f"weights of {name}".encode()


def _manifest(name: str, kind: str = "embedder", **changes: object) -> Manifest:
    fields = {
        "id": name,
        "kind": kind,
        "model_sha256": hashlib.sha256(_model(name)).hexdigest(),
        "input": {"width": 112, "height": 112, "channels": "rgb"},
        "template": "arcface" if kind == "embedder" else None,
        "dimension": 128 if kind == "embedder" else None,
        "licence": Licence(spdx="Apache-2.0", commercial_use=True),
        "provenance": Provenance(origin="a test"),
    }
    return seal(Manifest.model_validate({**fields, **changes}))


def _add(registry: Registry, *names: str, kind: str = "embedder") -> None:
    for name in names:
        registry.add(_model(name), _manifest(name, kind))


@pytest.fixture
def mine(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry(tmp_path / "models")


def test_a_registry_that_is_not_there_yet_is_empty(mine: Registry, tmp_path: Path) -> None:
    assert mine.list() == []
    assert mine.champion("embedder") is None
    assert not (tmp_path / "models").exists()


def test_an_added_bundle_is_listed_and_resolved_by_name(mine: Registry) -> None:
    _add(mine, "b", "a")
    assert mine.list() == [_manifest("a"), _manifest("b")]
    bundle = mine.resolve("embedder", "b")
    assert bundle.manifest == _manifest("b")
    assert bundle.model_path.read_bytes() == _model("b")


def test_a_card_is_kept_with_its_bundle(mine: Registry) -> None:
    mine.add(_model("a"), _manifest("a"), "# a")
    assert mine.resolve("embedder", "a").card() == "# a"


def test_adding_the_same_bundle_again_without_its_card_does_nothing(mine: Registry) -> None:
    mine.add(_model("a"), _manifest("a"), "# a")
    mine.add(_model("a"), _manifest("a"), "# a")
    assert mine.add(_model("a"), _manifest("a")).card() == "# a"


@pytest.mark.parametrize("first", [None, "# a"])
def test_the_same_bundle_with_another_card_is_refused(mine: Registry, first: str | None) -> None:
    mine.add(_model("a"), _manifest("a"), first)
    with pytest.raises(ModelExistsError, match="another card"):
        mine.add(_model("a"), _manifest("a"), "# another")
    assert mine.resolve("embedder", "a").card() == first


def test_a_card_that_is_too_long_leaves_nothing_behind(mine: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="64 KiB"):
        mine.add(_model("a"), _manifest("a"), "x" * (bundles.MAX_CARD_BYTES + 1))
    assert list((tmp_path / "models" / "bundles").iterdir()) == []


def test_adding_alone_makes_no_champion(mine: Registry) -> None:
    _add(mine, "a")
    with pytest.raises(ModelNotFoundError, match="no embedder yet"):
        mine.resolve("embedder")


def test_the_promoted_model_is_the_champion_of_its_kind_only(mine: Registry) -> None:
    _add(mine, "a", "b")
    _add(mine, "d", kind="detector")
    mine.promote("b")
    mine.promote("d")
    assert mine.resolve("embedder").manifest.id == "b"
    assert mine.resolve("detector").manifest.id == "d"


def test_rolling_back_returns_to_the_champion_before(mine: Registry) -> None:
    _add(mine, "a", "b", "c")
    for name in "abc":
        mine.promote(name)
    assert mine.roll_back("embedder") == "b"
    assert mine.champion("embedder") == "b"
    assert mine.roll_back("embedder") == "a"
    with pytest.raises(ModelNotFoundError, match="no earlier embedder"):
        mine.roll_back("embedder")
    assert mine.champion("embedder") == "a"


def test_promoting_the_champion_again_changes_nothing(mine: Registry) -> None:
    _add(mine, "a", "b")
    for name in ("a", "b", "b", "b"):
        mine.promote(name)
    assert mine.roll_back("embedder") == "a"


def test_an_earlier_champion_can_be_promoted_anew(mine: Registry) -> None:
    _add(mine, "a", "b")
    for name in ("a", "b", "a"):
        mine.promote(name)
    assert mine.champion("embedder") == "a"
    assert mine.roll_back("embedder") == "b"


def test_rolling_back_where_nothing_was_promoted_is_refused(mine: Registry) -> None:
    with pytest.raises(ModelNotFoundError):
        mine.roll_back("detector")


def test_another_object_on_the_same_folder_sees_the_same(mine: Registry, tmp_path: Path) -> None:
    other = Registry(tmp_path / "models")
    _add(mine, "a")
    mine.promote("a")
    assert other.resolve("embedder") == mine.resolve("embedder")


def test_adding_the_same_bundle_again_does_nothing(mine: Registry) -> None:
    _add(mine, "a")
    before = mine.resolve("embedder", "a").model_path.stat()
    _add(mine, "a")
    after = mine.resolve("embedder", "a").model_path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_adding_a_different_bundle_of_the_same_name_is_refused_and_the_first_stays(mine: Registry) -> None:
    _add(mine, "a")
    changed = _manifest("a", model_sha256=hashlib.sha256(b"other").hexdigest())
    with pytest.raises(ModelExistsError):
        mine.add(b"other", changed)
    with pytest.raises(ModelExistsError):
        mine.add(_model("a"), _manifest("a", metrics={"tar": 0.5}))
    assert mine.resolve("embedder", "a").model_path.read_bytes() == _model("a")


def test_a_manifest_of_another_model_is_refused_and_leaves_nothing(mine: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="digest"):
        mine.add(b"something else", _manifest("a"))
    assert mine.list() == []
    assert list((tmp_path / "models" / "bundles").iterdir()) == []


def test_a_manifest_that_was_not_sealed_is_refused_and_leaves_nothing(mine: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="contract_id"):
        mine.add(_model("a"), _manifest("a").model_copy(update={"contract_id": ""}))
    assert list((tmp_path / "models" / "bundles").iterdir()) == []


def test_a_manifest_can_be_replaced_by_one_of_the_same_contract(mine: Registry) -> None:
    _add(mine, "a")
    better = _manifest("a", metrics={"tar": 0.5})
    mine.replace_manifest(better)
    assert mine.resolve("embedder", "a").manifest == better


@pytest.mark.parametrize(
    "changes",
    [{"dimension": 64}, {"model_sha256": "0" * 64}, {"input": {"width": 112, "height": 112, "channels": "bgr"}}],
)
def test_a_manifest_of_another_contract_does_not_replace_it(mine: Registry, changes: dict[str, object]) -> None:
    _add(mine, "a")
    with pytest.raises(InvalidBundleError, match="another contract"):
        mine.replace_manifest(_manifest("a", **changes))
    assert mine.resolve("embedder", "a").manifest == _manifest("a")


def test_the_manifest_of_a_missing_model_is_not_replaced(mine: Registry) -> None:
    with pytest.raises(ModelNotFoundError):
        mine.replace_manifest(_manifest("a"))
    assert mine.list() == []


@pytest.mark.parametrize("name", ["missing", "../outside", "a/b", ".new-x", "..", "", "nul\0byte"])
def test_a_name_that_is_no_model_is_not_found(mine: Registry, tmp_path: Path, name: str) -> None:
    _add(mine, "a")
    (tmp_path / "outside").mkdir()
    with pytest.raises(ModelNotFoundError):
        mine.promote(name)
    with pytest.raises(ModelNotFoundError):
        mine.resolve("embedder", name)


def test_a_model_of_another_kind_is_not_resolved(mine: Registry) -> None:
    _add(mine, "d", kind="detector")
    with pytest.raises(InvalidBundleError, match="is a detector, not an embedder"):
        mine.resolve("embedder", "d")


def test_a_damaged_model_file_is_not_resolved(mine: Registry) -> None:
    _add(mine, "a")
    path = mine.resolve("embedder", "a").model_path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidBundleError, match="digest"):
        mine.resolve("embedder", "a")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"embedder"',
        b"\xff\xfe",
        b'{"embedder": "a"}',
        b'{"embedder": [1]}',
        b'{"embedder": null}',
    ],
)
def test_a_damaged_state_file_ends_in_an_error_of_ours_that_names_it(
    mine: Registry, tmp_path: Path, content: bytes
) -> None:
    _add(mine, "a")
    (tmp_path / "models" / "state.json").write_bytes(content)
    calls = (
        lambda: mine.champion("embedder"),
        lambda: mine.resolve("embedder"),
        lambda: mine.promote("a"),
        lambda: mine.roll_back("embedder"),
    )
    for call in calls:
        with pytest.raises(FaceError, match=r"state\.json"):
            call()
    assert (tmp_path / "models" / "state.json").read_bytes() == content


@pytest.mark.parametrize("name", ["gone", "../../etc", "", ".hidden"])
def test_a_champion_that_is_not_there_is_not_found(mine: Registry, tmp_path: Path, name: str) -> None:
    _add(mine, "a")
    (tmp_path / "models" / "state.json").write_text(json.dumps({"embedder": [name, "a"]}))
    with pytest.raises(ModelNotFoundError):
        mine.resolve("embedder")


def test_a_model_of_the_other_kind_is_told_with_the_right_article(mine: Registry) -> None:
    _add(mine, "a")
    with pytest.raises(InvalidBundleError, match="is an embedder, not a detector"):
        mine.resolve("detector", "a")


def test_what_is_no_bundle_does_not_hide_the_bundles(mine: Registry, tmp_path: Path) -> None:
    _add(mine, "a", "b", "c", "d")
    folder = tmp_path / "models" / "bundles"
    (folder / "README.txt").write_text("a stray file")
    (folder / "empty").mkdir()
    (folder / "b" / "manifest.json").write_text("{")
    (folder / "c").rename(folder / "renamed")

    assert [each.id for each in mine.list()] == ["a", "d"]
    problems = mine.problems()
    assert len(problems) == 3
    assert not any("\n" in line for line in problems)
    for line, name in zip(problems, ("b", "empty", "renamed"), strict=True):
        assert str(folder / name) in line


def test_a_bundle_in_a_folder_of_another_name_is_refused(mine: Registry, tmp_path: Path) -> None:
    _add(mine, "a")
    (tmp_path / "models" / "bundles" / "a").rename(tmp_path / "models" / "bundles" / "b")
    for call in (
        lambda: mine.resolve("embedder", "b"),
        lambda: mine.promote("b"),
    ):
        with pytest.raises(InvalidBundleError, match="another name, a"):
            call()
    assert mine.champion("embedder") is None


@pytest.mark.parametrize("blocked", ["models", "models/bundles", "models/lock"])
def test_a_folder_that_cannot_hold_models_is_told_in_one_line(mine: Registry, tmp_path: Path, blocked: str) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    if blocked.endswith("lock"):
        path.mkdir()
    else:
        path.write_text("a file")

    for call in (lambda: _add(mine, "a"), lambda: mine.roll_back("embedder")):
        with pytest.raises(InvalidBundleError, match="cannot keep models in") as refused:
            call()
        assert "\n" not in refused.value.message


def test_an_interrupted_add_is_invisible_and_removed_by_the_next(mine: Registry, tmp_path: Path) -> None:
    _add(mine, "a")
    leftover = tmp_path / "models" / "bundles" / ".new-1234"
    (leftover / "b").mkdir(parents=True)
    (leftover / "b" / "model.onnx").write_bytes(b"half")
    assert [manifest.id for manifest in mine.list()] == ["a"]
    _add(mine, "b")
    assert not leftover.exists()
    assert [manifest.id for manifest in mine.list()] == ["a", "b"]


def test_a_state_file_that_was_not_renamed_yet_counts_for_nothing(mine: Registry, tmp_path: Path) -> None:
    _add(mine, "a")
    mine.promote("a")
    (tmp_path / "models" / "state.tmp").write_text('{"embedder": ["nonsense')
    assert mine.champion("embedder") == "a"
    _add(mine, "b")
    mine.promote("b")
    assert mine.champion("embedder") == "b"


# Adds models one by one and promotes each; says the name of each that is done.
_WRITER = """
import hashlib, sys
from pathlib import Path
from models.bundle import Licence, Manifest, Provenance, seal
from models.registry import Registry

registry, prefix, count = Registry(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for number in range(count):
    name = f"{prefix}-{number}"
    model = name.encode() * 20_000
    manifest = seal(Manifest(
        id=name, kind="embedder", model_sha256=hashlib.sha256(model).hexdigest(),
        input={"width": 112, "height": 112, "channels": "rgb"}, template="arcface", dimension=128,
        licence=Licence(spdx="MIT", commercial_use=True), provenance=Provenance(origin="a test"),
    ))
    registry.add(model, manifest)
    registry.promote(name)
    print(name, flush=True)
"""


@contextmanager
def _writer(root: Path, prefix: str, count: int) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(root), prefix, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _check_whole(root: Path, finished: list[str]) -> None:
    """Every bundle that is there is whole, every one that was reported is there, and the champion resolves."""
    registry = Registry(root)
    names = [manifest.id for manifest in registry.list()]
    for name in names:
        registry.resolve("embedder", name)
    assert set(finished) <= set(names)
    history = json.loads((root / "state.json").read_text())["embedder"]
    assert set(finished) <= set(history) <= set(names)
    assert registry.resolve("embedder").manifest.id == history[0]


@pytest.mark.slow
def test_killing_the_process_that_writes_never_leaves_an_unreadable_registry(tmp_path: Path) -> None:
    finished: list[str] = []
    for attempt in range(20):
        with _writer(tmp_path, f"run{attempt}", 10_000) as process:
            assert process.stdout is not None
            finished.append(process.stdout.readline().strip())
            time.sleep(0.003 * attempt)  # another point of the cycle each time
            process.send_signal(signal.SIGKILL)
            finished += process.stdout.read().split()
        _check_whole(tmp_path, finished)
    registry = Registry(tmp_path)
    _add(registry, "last")
    assert not list((tmp_path / "bundles").glob(".*"))
    _check_whole(tmp_path, finished)


def test_two_processes_that_promote_at_once_lose_no_entry(tmp_path: Path) -> None:
    with _writer(tmp_path, "left", 25) as left, _writer(tmp_path, "right", 25) as right:
        assert left.wait(60) == 0
        assert right.wait(60) == 0
    history = json.loads((tmp_path / "state.json").read_text())["embedder"]
    for side in ("left", "right"):
        assert [name for name in reversed(history) if name.startswith(side)] == [f"{side}-{n}" for n in range(25)]
    assert len(history) == 50


def test_threads_that_add_the_same_model_at_once_all_succeed(mine: Registry) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: mine.add(_model("a"), _manifest("a")), range(16)))
    assert {bundle.manifest.id for bundle in results} == {"a"}
    assert mine.list() == [_manifest("a")]


def test_a_stored_bundle_is_the_documented_files(mine: Registry, tmp_path: Path) -> None:
    _add(mine, "a")
    mine.promote("a")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "models/bundles/a/manifest.json",
        "models/bundles/a/model.onnx",
        "models/bundles/a/signature.json",
        "models/lock",
        "models/signing.pem",
        "models/state.json",
        "models/trust.json",
    ]
    assert bundles.load(tmp_path / "models" / "bundles" / "a").manifest == _manifest("a")
