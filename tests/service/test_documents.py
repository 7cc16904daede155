"""The documents say what the program does: settings, routes, codes, commands, and the README's own calls."""

import re
import shutil
import subprocess
from pathlib import Path

import click
import numpy as np
import pytest
from live_server import LiveServer
from photos import ROOT, astronaut, encode

from service.__main__ import main
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.rest.errors import STATUS
from service.settings import PREFIX, Settings
from training.__main__ import main as train


def _text(name: str) -> str:
    return (ROOT / name).read_text()


def _row(text: str, first_cell: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(f"| {first_cell} |")), "")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    row = _row(_text("docs/configuration.md"), PREFIX + name.upper())

    assert row.split("|")[2].strip() == ("" if default is None else str(default))


def test_every_route_is_documented(server: LiveServer) -> None:
    text = _text("docs/api.md")
    for path, operations in server.client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"| {method.upper()} {path} |" in text, (method, path)


def test_every_code_and_its_status_is_documented() -> None:
    text = _text("docs/api.md")
    for code, status in STATUS.items():
        assert _row(text, code).split("|")[2].strip().startswith(str(int(status))), code


def test_every_rpc_is_documented() -> None:
    text = _text("docs/api.md")
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert re.search(rf"\b{method.name}\b", text), method.name


def test_every_command_is_documented() -> None:
    text = _text("docs/configuration.md")
    for name in main.commands:
        assert f"`facesphere {name}" in text
    for name in train.list_commands(click.Context(train)):
        assert f"`facesphere-train {name}`" in text


def test_every_dependency_has_its_reason() -> None:
    project = _text("pyproject.toml").partition("dependencies = [")[2].partition("]")[0]
    text = _text("docs/dependencies.md")
    for name in re.findall(r'"([a-z-]+)>=', project):
        assert name in text, name


def test_every_link_between_documents_leads_to_a_file() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)


def test_the_calls_of_the_readme_work_word_for_word(server: LiveServer, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    (tmp_path / "alice.jpg").write_bytes(encode(astronaut(), "JPEG"))
    (tmp_path / "alice2.jpg").write_bytes(encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG"))
    block = _text("README.md").partition("## Try it")[2].partition("```sh\n")[2].partition("```")[0]
    script = "set -e\n" + block.replace("http://127.0.0.1:8000", server.http)

    run = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert run.returncode == 0, run.stderr
    assert '"matched":true' in run.stdout
    assert '"decision":"known"' in run.stdout
    assert '"signature"' in run.stdout
