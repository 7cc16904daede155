"""Every command and JSON of README and docs: run against a real server, compared with what it answers.

What is not run here is in NOT_RUN with the reason; of our own commands among it, names and options are looked up.
"""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from documents import SHELL, Block, blocks, differences, inline_commands, json_values
from galleries import open_gallery
from live_server import LiveServer, environment, live_server
from photos import ROOT, astronaut, encode
from preloaded import programs

from models import zoo
from models.registry import Registry
from service.__main__ import main
from service.domain import CollectionSettings, ModelInfo, NewFace
from training.__main__ import main as train

# By how a command begins. Whoever adds one says why it cannot be run.
NOT_RUN = {
    r"make ": "makes an environment of its own, and some of it takes hours; the target is looked up",
    r"docker ": "no Docker engine is on the machines of the tests; test_compose.py reads the files",
    r"kubectl ": "no cluster; test_kubernetes.py holds the objects against their schemas",
    r"pip install": "would change the environment that the tests run in",
    r"torchrun ": "several processes; test_trainer_ranks.py starts them",
    r"tensorboard ": "serves until it is stopped",
    r"python benchmarks/": "hours",
    r"(FACESPHERE_DEVICE=openvino )?facesphere serve": "serves until it is stopped; the server of this file is one",
    r"facesphere import": "needs what another program kept; test_importing.py makes that",
    r"facesphere gallery migrate": "needs PostgreSQL; test_postgres_migration.py has one",
    r"facesphere models pull sface-2021dec --source": "a mirror of somebody's; test_zoo.py has one",
    r"facesphere models (activate|import)": "needs a server of this gallery, or another's key; test_activation.py",
    r"facesphere-train (?!align --data photos)": "photos of hundreds of people, and hours; tests/training runs each",
}
RUN_PYTHON = {"docs/examples.md"}
FENCED = blocks(*SHELL)
COMMANDS = [(block, command) for block in FENCED for command in block.commands]


def _reason(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command)), None)


@dataclass(frozen=True)
class Place:
    """Where commands run: a folder with photos, models and a gallery, and a server beside it."""

    folder: Path
    programs: Path
    server: LiveServer

    def here(self, text: str) -> str:
        """The same for this machine: addresses, folders, and the id of the key that was made."""
        key = "$(facesphere keys list | cut -d ' ' -f 1 | head -n 1)"
        for there, here in (
            ("http://127.0.0.1:8000", self.server.http),
            ("127.0.0.1:50051", self.server.grpc),
            ("/backups/", f"{self.folder}/backups/"),
            ("k7w3m2xa", key),
            ("people-1", "facesphere-mobile-1"),
        ):
            text = text.replace(there, here)
        return text

    def run(self, block: Block) -> str:
        """What the commands of a block print, those that are run here."""
        wanted = [self.here(command) for command in block.commands if _reason(command) is None]
        path = f"{self.programs}:{environment()['PATH']}"
        run = subprocess.run(
            ["bash", "-c", "\n".join(["set -euo pipefail", *wanted])],
            cwd=self.folder,
            env={**environment(), "PATH": path, "KEY": "none is needed here"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert run.returncode == 0, f"{block}: {run.stderr or run.stdout}"
        return run.stdout


@pytest.fixture(scope="module")
def place(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("documents")
    photo = encode(astronaut(), "JPEG")
    mirrored = encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG")
    for name, data in (("alice.jpg", photo), ("alice2.jpg", mirrored), ("photos/alice/1.jpg", photo)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "wall.jpg").write_bytes(encode(np.full((96, 96, 3), 200, np.uint8), "JPEG"))
    shutil.copytree(models_dir, folder / "data" / "models")
    registry = Registry(folder / "data" / "models")
    registry.promote(zoo.pull(registry, "facesphere-mobile-1").id)
    registry.promote("sface-2021dec")
    shutil.copy(registry.resolve("embedder").model_path, folder / "my.onnx")
    _enrol(folder / "data", registry)
    with (
        programs(tmp_path_factory.mktemp("programs")) as bin_,
        live_server(
            tmp_path_factory.mktemp("data"),
            *("--model", "sface-2021dec"),  # whatever commands promote meanwhile
            models_dir=str(folder / "data" / "models"),
        ) as server,
    ):
        yield Place(folder, bin_, server)


def _enrol(data: Path, registry: Registry) -> None:
    """Somebody with a consent and a crop."""
    manifest = registry.resolve("embedder").manifest
    model = ModelInfo(manifest.id, manifest.contract_id, manifest.dimension or 0)
    vector = np.eye(1, model.dimension, dtype=np.float32)[0]
    gallery = open_gallery(data)
    gallery.put_collection("lab", CollectionSettings("door of the lab", store_crops=True), model, "cli")
    crop = encode(np.zeros((112, 112, 3), np.uint8))
    gallery.enrol("lab", model.contract_id, "alice", [NewFace(vector, 0.9, "form-17", crop)], "cli")
    gallery.close()


@pytest.mark.parametrize("document", sorted({block.document for block in FENCED}))
def test_the_commands_of_a_document_work_word_for_word_and_answer_as_it_says(document: str, place: Place) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    for left in ("data/people", "crops", "backups"):  # by the documents before it
        shutil.rmtree(place.folder / left, ignore_errors=True)
    (place.folder / "backups").mkdir()
    answers: list[object] = []
    for block in blocks(*SHELL, "json"):
        if block.document != document:
            continue
        if block.language != "json":
            ready = [place.server.ready] if block.commands == ["make serve"] else []
            answers = [*json_values(place.run(block)), *ready]
            continue
        found = [differences(json.loads(block.text), answer) for answer in answers]
        assert found, f"{block}: no command before it prints JSON"
        assert [] in found, f"{block}: {min(found, key=len)}"


@pytest.mark.parametrize(("block", "command"), [each for each in COMMANDS if _reason(each[1])], ids=str)
def test_what_is_not_run_is_a_command_that_there_is(block: Block, command: str) -> None:
    _look_up(command)


@pytest.mark.parametrize(("document", "command"), inline_commands())
def test_commands_in_a_line_of_text_are_commands_that_there_are(document: str, command: str) -> None:
    _look_up(command)


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_no_exception_is_kept_that_no_document_needs(pattern: str) -> None:
    assert any(re.match(pattern, command) for _, command in COMMANDS)


def _look_up(command: str) -> None:
    """That a command of ours is there, with the options that are given."""
    words = shlex.split(command.partition(" && ")[0])
    words = words[next(index for index, word in enumerate(words) if "=" not in word) :]
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert [word for word in words[1:] if "=" not in word and word not in targets] == []
    if words[0] not in ("facesphere", "facesphere-train"):
        return
    group: click.Command = main if words[0] == "facesphere" else train
    rest = words[1:]
    while isinstance(group, click.Group) and rest and not rest[0].startswith("-"):
        inner = group.get_command(click.Context(group), rest[0])
        assert inner is not None, f"{words[0]} has no {rest[0]}"
        group, rest = inner, rest[1:]
    known = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= known | {"--help"}, command


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_what_python_examples_import_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("service.pb"):
            found = importlib.util.find_spec(node.module)
            assert found is not None, node.module
            assert found.origin is not None, node.module
            text = Path(found.origin).read_text(encoding="utf-8")
            for name in node.names:
                assert re.search(rf"^(def |class |async def |)({name.name})\b|import .*\b{name.name}\b", text, re.M), (
                    name.name
                )


@pytest.mark.parametrize("block", [each for each in blocks("python") if each.document in RUN_PYTHON], ids=str)
def test_python_examples_run(
    block: Block, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    exec(compile(place.here(block.text), str(block), "exec"), {})

    assert capsys.readouterr().out.startswith("True")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_examples_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text)
