"""The command line as people and scripts use it: a process, its exit status, and what it says where."""

import base64
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from galleries import open_gallery
from live_server import command, environment
from photos import ROOT, astronaut, encode

from models import zoo
from service.__main__ import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def process(models_dir: Path, tmp_path: Path) -> Run:
    """Runs a command as a process in an empty folder, with the shared models and nothing to fetch from."""

    def run(*arguments: str | Path, **settings: str) -> Done:
        done = subprocess.run(
            command(*map(str, arguments)),
            env=_environment(models_dir, tmp_path, settings),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(params=["in this process", pytest.param("as a process", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, by default without a second or more for starting Python each time."""
    if request.param == "as a process":
        started: Run = request.getfixturevalue("process")
        return started
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, **settings: str) -> Done:
        changed: dict[str, str | None] = {name: None for name in os.environ if name.startswith("FACESPHERE_")}
        changed.update(_environment(models_dir, tmp_path, settings))
        result = CliRunner().invoke(main, list(map(str, arguments)), env=changed)
        return Done(result.exit_code, result.stdout, result.stderr)

    return call


def _environment(models_dir: Path, folder: Path, settings: dict[str, str]) -> dict[str, str]:
    return {
        **environment(**{"models_dir": str(models_dir), "auto_pull": "false", **settings}),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "PIP_NO_INDEX": "1",
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photo, its mirror image, a photo without a face, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "face.png").write_bytes(encode(astronaut()))
    (folder / "mirror.jpg").write_bytes(encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG", quality=95))
    (folder / "wall.png").write_bytes(encode(np.full((200, 200, 3), 180, np.uint8)))
    (folder / "notes.txt").write_text("no image at all")
    return folder


@pytest.fixture
def own_registry(models_dir: Path, tmp_path: Path) -> Path:
    """A registry of its own with the default models; hard links, as a stored model is never changed in place."""
    folder = tmp_path / "registry"
    shutil.copytree(models_dir / "bundles", folder / "bundles", copy_function=os.link)
    shutil.copy(models_dir / "state.json", folder / "state.json")
    return folder


def _failed(done: Done) -> str:
    """The one line on stderr with which a command failed."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def _misused(done: Done) -> str:
    """The line behind the usage lines with which a wrong call ended."""
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[0].startswith("Usage: ")
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert "Traceback" not in done.stderr
    return lines[-1]


# --- help


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, each in group.commands.items():
        yield (*path, name), each
        if isinstance(each, click.Group):
            yield from _commands(each, (*path, name))


ALL = dict(_commands(main))


def test_these_are_the_commands() -> None:
    assert {" ".join(path) for path in ALL} == {
        "serve",
        "verify",
        "embed",
        "models",
        "models pull",
        "models list",
        "models show",
        "models add",
        "models activate",
        "models jobs",
        "models precision",
        "models promote",
        "models rollback",
        "models export",
        "models import",
        "keys",
        "keys create",
        "keys list",
        "keys revoke",
        "keys rotate",
        "audit",
        "audit verify",
        "audit verify-receipt",
        "audit seal",
        "gallery",
        "gallery check",
        "gallery accept-loss",
        "gallery migrate",
        "gallery export-crops",
        "import",
        "import compreface",
        "import insightface",
        "backup",
        "restore",
    }


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_of_every_command_says_what_it_does_with_an_example(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*path, "--help"])

    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: ")
    assert ALL[path].help
    if not isinstance(ALL[path], click.Group):
        assert f"Example: facesphere {' '.join(path)}" in done.stdout
    for option in ALL[path].params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def test_help_of_the_program_lists_the_commands(process: Run) -> None:
    done = process("--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ("serve", "verify", "embed", "models"))
    assert "FACESPHERE_GRPC_PORT" in done.stdout


# --- verify


def test_two_photos_of_one_person_are_the_same_person(process: Run, photos: Path) -> None:
    done = process("verify", photos / "face.png", photos / "mirror.jpg", "--threshold", "0.36")

    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("same person: similarity 0.")
    assert ">= 0.3600" in done.stdout
    assert "FMR" not in done.stdout


def test_other_people_are_told_in_the_exit_status_where_asked(run: Run, photos: Path) -> None:
    pair = (photos / "face.png", photos / "mirror.jpg", "--threshold", "0.9999")

    plain, strict = run("verify", *pair), run("verify", *pair, "--exit-code")

    assert (plain.returncode, strict.returncode) == (0, 1)
    assert plain.stdout == strict.stdout
    assert plain.stdout.startswith("different people: similarity 0.")
    assert strict.stderr == ""


def test_the_document_of_the_rest_api_is_printed_as_json(run: Run, photos: Path) -> None:
    done = run("verify", photos / "face.png", photos / "face.png", "--threshold", "0.36", "--json", "--exit-code")

    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["matched"] is True
    assert document["similarity"] == pytest.approx(1, abs=1e-6)
    assert document["threshold"] == 0.36
    assert document["model"]["id"] == zoo.DEFAULT_EMBEDDER


# --- embed


def test_embed_prints_every_face_with_its_embedding(run: Run, photos: Path) -> None:
    numbers = json.loads(run("embed", photos / "face.png").stdout)
    text = json.loads(run("embed", photos / "face.png", "--encoding", "base64", "--faces", "largest").stdout)

    (face,) = numbers["faces"]
    assert np.linalg.norm(face["embedding"]) == pytest.approx(1, abs=1e-5)
    decoded = np.frombuffer(base64.b64decode(text["faces"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(decoded, np.array(face["embedding"], np.float32))


def test_a_photo_without_a_face_is_an_empty_list(run: Run, photos: Path) -> None:
    done = run("embed", photos / "wall.png")

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["faces"] == []


def test_an_aligned_crop_is_embedded_as_it_is(run: Run, registry_crop: bytes, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "crop.png").write_bytes(registry_crop)

    crop = json.loads(run("embed", tmp_path / "crop.png", "--aligned").stdout)
    photo = json.loads(run("embed", photos / "face.png").stdout)

    # The crop was cut out of a JPEG of the photo, so it is close and not equal.
    assert np.dot(crop["faces"][0]["embedding"], photo["faces"][0]["embedding"]) > 0.95


# --- what goes wrong with photos and decisions


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("verify", "face.png", "missing.png"), "missing.png: No such file"),
        (("verify", "face.png", "."), "Is a directory"),
        (("verify", "face.png", "notes.txt"), "b: "),
        (("verify", "wall.png", "face.png"), "a: there is no face"),
        (("verify", "face.png", "mirror.jpg", "--target-fmr", "0.001", "--threshold", "0.4"), "not both"),
        (("verify", "face.png", "mirror.jpg", "--target-fmr", "2"), "target_fmr must be between"),
        (("verify", "face.png", "mirror.jpg", "--threshold", "1.5"), "threshold must be between"),
        (("verify", "face.png", "mirror.jpg", "--model", "nobody"), "nobody"),
        (("verify", "face.png", "mirror.jpg", "--model", "yunet-2023mar"), "is a detector, not an embedder"),
        (("verify", "face.png", "mirror.jpg", "--threads", "-1"), "threads"),
        (("embed", "missing.png"), "missing.png: No such file"),
        (("embed", "notes.txt"), "not a JPEG, PNG, WebP or BMP image"),
        (("embed", "face.png", "--detector", "nobody"), "nobody"),
        (("embed", "wall.png", "--aligned", "--model", "../models"), "not a model's name"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, photos: Path, arguments: tuple[str, ...], says: str) -> None:
    paths = [photos / each if each.endswith((".png", ".jpg", ".txt")) or each == "." else each for each in arguments]

    assert says in _failed(run(*paths))


def test_a_process_that_fails_says_so_in_its_status_and_in_one_line(process: Run, photos: Path) -> None:
    assert "missing.png" in _failed(process("verify", photos / "face.png", photos / "missing.png"))


def test_a_file_over_the_limit_is_one_line(run: Run, photos: Path) -> None:
    line = _failed(run("embed", photos / "face.png", max_image_bytes="2048"))

    assert "2048" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("verify", "face.png"), "IMAGE_B"),
        (("verify", "a", "b", "--threshold", "high"), "--threshold"),
        (("embed", "a", "--faces", "some"), "--faces"),
        (("embed", "a", "--device", "abacus"), "--device"),
        (("serve", "--prot", "1"), "--prot"),
        (("models", "add", "model.onnx"), "--input-size"),
        (("recognise",), "recognise"),
    ],
)
def test_a_wrong_call_is_answered_with_the_usage(run: Run, arguments: tuple[str, ...], says: str) -> None:
    assert says in _misused(run(*arguments))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prot": "8000"}, "unknown setting FACESPHERE_PROT"),
        ({"port": "99999"}, "port: "),
        ({"target_fmr": "2"}, "target_fmr: "),
    ],
)
def test_a_bad_environment_is_one_line(run: Run, photos: Path, settings: dict[str, str], says: str) -> None:
    assert says in _failed(run("verify", photos / "face.png", photos / "face.png", **settings))


# --- serve, when it cannot


@contextmanager
def _port_in_use() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


def test_a_port_in_use_is_one_line(process: Run) -> None:
    with _port_in_use() as port:
        line = _failed(process("serve", "--port", port, "--grpc-port", "0", log_level="error"))

    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_a_grpc_port_in_use_is_one_line(process: Run) -> None:
    with _port_in_use() as port:
        line = _failed(process("serve", "--port", "0", "--grpc-port", port, log_level="error"))

    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_a_data_folder_in_use_is_one_line(process: Run, tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path / "data")):
        line = _failed(process("serve", "--port", "0", "--grpc-port", "0", log_level="error"))

    assert line == "Error: data is in use by another process"


def test_a_gallery_that_is_no_gallery_is_one_line(process: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gallery.sqlite3").write_text("no database " * 1000)

    assert "cannot be opened as a gallery" in _failed(process("serve", "--port", "0", "--grpc-port", "0"))


def test_an_open_address_without_a_key_is_one_line_and_a_short_key_is_not_repeated(run: Run) -> None:
    assert "FACESPHERE_API_KEY" in _failed(run("serve", "--host", "0.0.0.0"))

    line = _failed(run("serve", "--host", "0.0.0.0", api_key="swordfish"))
    assert "at least 16" in line
    assert "swordfish" not in line


def test_no_models_and_no_leave_to_fetch_them_is_one_line(run: Run, photos: Path, tmp_path: Path) -> None:
    line = _failed(run("embed", photos / "face.png", models_dir=str(tmp_path / "none")))

    assert "facesphere models pull" in line


# --- models


def test_pulling_what_is_there_fetches_nothing(run: Run, own_registry: Path) -> None:
    done = run("models", "pull", models_dir=str(own_registry))

    assert (done.returncode, done.stdout) == (0, "")
    ready = done.stderr.splitlines()
    assert [line.split(":")[0] for line in ready] == list(zoo.default_ids())
    assert all("ready" in line for line in ready)


def test_a_model_is_pulled_from_another_place_checked_and_promoted(
    run: Run, own_registry: Path, tmp_path: Path
) -> None:
    mirror = own_registry / "bundles" / zoo.DEFAULT_DETECTOR / "model.onnx"
    fresh = {"models_dir": str(tmp_path / "fresh")}

    pulled = run("models", "pull", zoo.DEFAULT_DETECTOR, "--source", mirror, **fresh)

    assert pulled.returncode == 0
    assert f"fetching {mirror}" in pulled.stderr
    listed = run("models", "list", **fresh)
    assert listed.stdout.startswith(f"* {zoo.DEFAULT_DETECTOR} ")
    assert len(listed.stdout.splitlines()) == 1
    assert (tmp_path / "cache" / "facesphere").is_dir()


def test_another_file_than_the_pinned_one_is_refused_and_not_stored(
    run: Run, own_registry: Path, tmp_path: Path
) -> None:
    wrong = own_registry / "bundles" / zoo.DEFAULT_EMBEDDER / "model.onnx"
    fresh = {"models_dir": str(tmp_path / "fresh")}

    done = run("models", "pull", zoo.DEFAULT_DETECTOR, "--source", wrong, **fresh)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "SHA-256" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("models", "list", **fresh).stdout == ""


def test_pulling_an_unknown_model_or_several_from_one_place_is_one_line(run: Run) -> None:
    assert "is not known; models to be had are" in _failed(run("models", "pull", "nobody"))
    assert "exactly one model" in _failed(run("models", "pull", *zoo.default_ids(), "--source", "file"))
    assert "exactly one model" in _failed(run("models", "pull", "--source", "file"))


def test_list_shows_models_with_a_star_at_the_promoted_ones(run: Run) -> None:
    done = run("models", "list")

    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert set(lines) == set(zoo.default_ids())
    for model_id, line in lines.items():
        assert line.startswith("* ")
        assert zoo.known_manifest(model_id).contract_id in line


def test_an_empty_registry_says_how_to_fill_it(run: Run, tmp_path: Path) -> None:
    done = run("models", "list", models_dir=str(tmp_path / "none"))

    assert (done.returncode, done.stdout) == (0, "")
    assert "facesphere models pull" in done.stderr


def test_show_prints_the_manifest(run: Run, tmp_path: Path) -> None:
    stored = run("models", "show", zoo.DEFAULT_EMBEDDER)
    default = run("models", "show", zoo.DEFAULT_EMBEDDER, models_dir=str(tmp_path / "none"))

    for done in (stored, default):
        assert (done.returncode, done.stderr) == (0, "")
        manifest: dict[str, Any] = json.loads(done.stdout)
        assert manifest["id"] == zoo.DEFAULT_EMBEDDER
        assert manifest["contract_id"] == zoo.known_manifest(zoo.DEFAULT_EMBEDDER).contract_id
    assert "nobody" in _failed(run("models", "show", "nobody"))


def test_an_own_model_is_added_listed_and_served_once_it_is_promoted(
    run: Run, own_registry: Path, photos: Path
) -> None:
    source = own_registry / "bundles" / zoo.DEFAULT_EMBEDDER / "model.onnx"
    own = {"models_dir": str(own_registry)}
    options = ("--input-size", "112", "112", "--channels", "rgb", "--template", "arcface", "--std", "2", "2", "2")

    added = run("models", "add", source, "--id", "mine", *options, "--promote", **own)

    assert (added.returncode, added.stdout) == (0, "")
    assert added.stderr.startswith("mine: added (128 values, contract ")
    listed = {line.split()[-4]: line for line in run("models", "list", **own).stdout.splitlines() if "embedder" in line}
    assert len(listed) == 2
    stars = [line for line in listed.values() if line.startswith("*")]
    assert len(stars) == 1
    assert " mine " in stars[0]
    assert json.loads(run("embed", photos / "face.png", **own).stdout)["model"]["id"] == "mine"
    # It has no calibration, so a rate means nothing under it.
    assert "no calibration" in _failed(run("verify", photos / "face.png", photos / "face.png", **own))


def test_a_model_that_cannot_be_added_is_one_line(run: Run, own_registry: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("no model")
    own = {"models_dir": str(own_registry)}
    options = ("--input-size", "112", "112", "--channels", "rgb", "--template", "arcface")

    assert "not a valid ONNX model" in _failed(run("models", "add", tmp_path / "bad.onnx", *options, **own))
    assert "cannot read" in _failed(run("models", "add", tmp_path / "missing.onnx", *options, **own))
    detector = own_registry / "bundles" / zoo.DEFAULT_DETECTOR / "model.onnx"
    _failed(run("models", "add", detector, *options, **own))
    assert len(run("models", "list", **own).stdout.splitlines()) == 2


def test_list_tells_of_a_damaged_model_and_shows_the_others(run: Run, own_registry: Path) -> None:
    (own_registry / "bundles" / "damaged").mkdir()
    (own_registry / "bundles" / "notes.txt").write_text("a stray file")

    done = run("models", "list", models_dir=str(own_registry))

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    (line,) = done.stderr.splitlines()
    assert str(own_registry / "bundles" / "damaged") in line


def test_a_model_is_added_only_with_the_stated_digest(run: Run, own_registry: Path) -> None:
    own = {"models_dir": str(own_registry)}
    source = own_registry / "bundles" / zoo.DEFAULT_EMBEDDER / "model.onnx"
    options = ("--id", "mine", "--input-size", "112", "112", "--channels", "rgb", "--template", "arcface")
    digest = zoo.known_manifest(zoo.DEFAULT_EMBEDDER).model_sha256

    assert digest in _failed(run("models", "add", source, "--sha256", "0" * 64, *options, **own))
    assert "--sha256" in _failed(run("models", "add", "https://example.invalid/model.onnx", *options, **own))
    assert run("models", "add", source, "--sha256", digest, *options, **own).returncode == 0


def test_a_folder_that_cannot_hold_models_is_one_line(run: Run, own_registry: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    weights = str(own_registry / "bundles" / zoo.DEFAULT_DETECTOR / "model.onnx")

    done = run("models", "pull", zoo.DEFAULT_DETECTOR, "--source", weights, models_dir=str(tmp_path / "file"))

    assert done.returncode == 2
    assert "cannot keep models in" in done.stderr.splitlines()[-1]
