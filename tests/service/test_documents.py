"""The documents say what the program does, and nothing else: settings, routes, codes, commands, links."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from photos import ROOT

from models import zoo
from service.__main__ import main
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.rest.errors import STATUS
from service.settings import PREFIX, Settings
from training.__main__ import main as train

NO_JSON = {"GET /metrics", "GET /console"}  # and so no part of the OpenAPI document


def _text(name: str) -> str:
    return (ROOT / name).read_text()


def _row(text: str, first_cell: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(f"| {first_cell} |")), "")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    row = _row(_text("docs/configuration.md"), PREFIX + name.upper())

    assert row.split("|")[2].strip() == ("" if default is None else str(default))


def test_no_setting_is_documented_that_there_is_not() -> None:
    documented = re.findall(rf"^\| {PREFIX}(\w+) \|", _text("docs/configuration.md"), re.M)

    assert {name.lower() for name in documented} == set(Settings.model_fields)


def test_every_route_is_documented_and_every_documented_one_is_there() -> None:
    paths = json.loads(_text("tests/service/snapshots/openapi.json"))["paths"]  # which another test holds to the server
    routes = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}

    documented = re.findall(r"^\| ((?:GET|POST|PUT|PATCH|DELETE) \S+) \|", _text("docs/api.md"), re.M)

    assert {*documented} - NO_JSON == routes


def test_every_code_and_its_status_is_documented() -> None:
    text = _text("docs/api.md")
    for code, status in STATUS.items():
        assert _row(text, code).split("|")[2].strip().startswith(str(int(status))), code


def test_every_rpc_is_documented() -> None:
    text = _text("docs/api.md")
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert re.search(rf"\b{method.name}\b", text), method.name


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name) if group is not train else None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield path, name


@pytest.mark.parametrize(
    ("path", "name"), [*_commands(main, "facesphere"), *_commands(train, "facesphere-train")], ids=str
)
def test_every_command_is_documented(path: str, name: str) -> None:
    rows = [line.split(" | ")[0] for line in _text("docs/configuration.md").splitlines()]
    of_group = " ".join(row for row in rows if row.startswith(f"| `{path} "))

    assert re.search(rf"`(?:{path} )?{name}\b", of_group)


def test_the_sizes_of_the_operations_page_are_the_figures_of_the_performance_page() -> None:
    rows = re.findall(
        r"^\| \**([a-z +]+?)\** \| \**([\d.]+)\** \| [^|]+\|[^|]*\| \**([\d.]+)", _text("docs/performance.md"), re.M
    )
    small, large = ({name: round(float(row[index])) for name, *row in rows} for index in (0, 1))
    stages = ", ".join(f"{name.split()[0]} {small[name]}" for name in ("decode", "detect", "align + quality", "embed"))

    text = _text("docs/operations.md")
    assert f"| {small['sum']} ms: {stages} |" in text
    assert f"| {large['sum']} ms |" in text
    assert f"one core answers {round(1000 / small['sum'])} photos" in text


def test_the_thresholds_of_the_concepts_are_those_of_the_default_models_calibration() -> None:
    calibration = zoo.known_manifest(zoo.DEFAULT_EMBEDDER).calibration
    assert calibration is not None
    text = _text("docs/concepts.md")
    one_to_one = re.findall(r"^\| (0\.[\d]+)(?: \(default\))? \| ([\d.]+) \| [\d,]+[^|]* \| ([\d,]+)", text, re.M)
    one_to_many = re.findall(r"^\| ([\d,]+) \| 1[.\d]*e-\d \| ([\d.]+) \|", text, re.M)
    tar = {point.fmr: point.tar for point in calibration.points}

    assert len(one_to_one) == 4
    for rate, threshold, one_in in one_to_one:
        assert round(calibration.threshold_at(float(rate)).value, 3) == float(threshold)
        assert float(one_in.replace(",", "")) == pytest.approx(1 / (1 - tar[float(rate)]), rel=0.02)
    assert len(one_to_many) == 5
    for faces, threshold in one_to_many:
        found = calibration.threshold_for_gallery(0.01, int(faces.replace(",", ""))).value
        assert round(found, 3) == float(threshold)


def test_every_target_of_make_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):", _text("Makefile"), re.M)
    documents = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))

    assert [name for name in targets if not re.search(rf"make {name}\b(?!-)", documents)] == []


def test_every_dependency_has_its_reason() -> None:
    project = _text("pyproject.toml").partition("dependencies = [")[2].partition("]")[0]
    text = _text("docs/dependencies.md")
    for name in re.findall(r'"([a-z-]+)>=', project):
        assert name in text, name


def test_every_link_between_documents_leads_to_a_file() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)


def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(
        build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=100
    )

    assert run.returncode == 0, run.stderr
    pages = list(tmp_path.glob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))  # and a page for what is not there
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//", text), page.name
