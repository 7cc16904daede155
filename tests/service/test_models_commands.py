"""facesphere models promote | rollback | export | import."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from models import zoo
from models.registry import Registry
from service.__main__ import main

SMALL = "facesphere-mobile-1-int8"


@pytest.fixture
def data(models_dir: Path, tmp_path: Path) -> Path:
    """A data folder with the default models and a small one beside them."""
    registry = Registry(shutil.copytree(models_dir, tmp_path / "data" / "models"))
    zoo.pull(registry, SMALL)
    return tmp_path / "data"


def _run(data: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", *(str(each) for each in arguments), "--data-dir", str(data)])


def _standing(data: Path) -> dict[str, str]:
    lines = (line.lstrip("* ").split() for line in _run(data, "list").stdout.splitlines())
    return {name: standing for name, _, standing, *_ in lines}


def test_a_model_is_promoted_and_rolled_back(data: Path) -> None:
    before = _standing(data)
    assert (before[zoo.DEFAULT_EMBEDDER], before[SMALL]) == ("champion", "candidate")

    assert _run(data, "promote", SMALL).stdout == f"{SMALL} is the embedder now, and running servers follow\n"
    assert (_standing(data)[zoo.DEFAULT_EMBEDDER], _standing(data)[SMALL]) == ("retired", "champion")

    assert _run(data, "rollback").stdout == f"{zoo.DEFAULT_EMBEDDER} is the embedder now, and running servers follow\n"
    assert (_standing(data)[zoo.DEFAULT_EMBEDDER], _standing(data)[SMALL]) == ("champion", "retired")
    again = _run(data, "rollback")
    assert (again.exit_code, again.stderr) == (2, "Error: there is no earlier embedder to go back to\n")


def test_a_damaged_model_is_not_promoted(data: Path) -> None:
    with (data / "models" / "bundles" / SMALL / "model.onnx").open("ab") as file:
        file.write(b"\0")

    done = _run(data, "promote", SMALL)

    assert done.exit_code == 2
    assert "has the digest" in done.stderr
    assert _standing(data)[zoo.DEFAULT_EMBEDDER] == "champion"


def test_a_model_is_carried_to_another_registry_by_whoever_trusts_its_key(data: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "small.tar", tmp_path / "other"
    told = _run(data, "export", SMALL, "--out", file)
    key = told.stdout.rpartition("signed by ")[2].strip()

    refused = _run(other, "import", file)
    taken = _run(other, "import", file, "--trust", key)

    assert refused.exit_code == 2
    assert f"is signed by the key {key}, which is not trusted here" in refused.stderr
    assert taken.exit_code == 0
    assert taken.stdout.startswith(f"{SMALL}: imported (embedder, contract ")
    assert _standing(other) == {SMALL: "candidate"}


@pytest.mark.parametrize("command", [("promote", "nobody"), ("export", "nobody", "--out", "x.tar")])
def test_a_model_that_is_not_there_is_one_line(data: Path, command: tuple[str, ...]) -> None:
    done = _run(data, *command)

    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'nobody'" in done.stderr


def test_a_file_that_is_not_there_is_one_line(data: Path, tmp_path: Path) -> None:
    done = _run(data, "import", tmp_path / "nowhere.tar")

    assert done.exit_code == 2
    assert done.stderr == f"Error: cannot read {tmp_path / 'nowhere.tar'}: No such file or directory\n"
