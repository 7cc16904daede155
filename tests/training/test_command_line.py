"""`python -m training`: evaluate and calibrate, and the one line in which everything else ends."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from photos import ROOT, astronaut, encode

from models import bundle as bundles
from models.registry import Registry
from training.__main__ import main

PEOPLE = 34  # with two photos each, 2244 impostor pairs: enough to state rates of 10 % and 5 %


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each person is one face bent and tinted in a way of their own; each photo of them has noise of its own."""
    root = tmp_path_factory.mktemp("set") / "people"
    rng = np.random.default_rng(0)
    head = cv2.resize(astronaut()[30:250, 125:325], (100, 110), interpolation=cv2.INTER_AREA)
    height, width = head.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for number in range(PEOPLE):
        bend = cv2.resize(rng.normal(0, 3, (4, 4, 2)).astype(np.float32), (width, height))
        bent = cv2.remap(head, x + bend[..., 0], y + bend[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        tint = rng.uniform(0.5, 1.5, 3)
        folder = root / f"person{number:02}"
        folder.mkdir(parents=True)
        for take in range(2):
            photo = bent * tint * (1 + 0.2 * take) + rng.normal(0, 4, bent.shape)
            (folder / f"{take}.jpg").write_bytes(encode(np.clip(photo, 0, 255).astype(np.uint8), "JPEG", quality=90))
    return root


@pytest.fixture
def own_registry(models_dir: Path, tmp_path: Path) -> Path:
    """A copy of the registry, to be changed."""
    return shutil.copytree(models_dir, tmp_path / "models")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def _error_line(result: Result) -> str:
    """The one line in which a command that could not do its work ends."""
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)  # anything else would have been a traceback
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1
    assert lines[-1] == errors[0]
    return errors[0]


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_each_command_ends_with_an_example_that_names_existing_options(command: str, flag: str) -> None:
    result = _run(command, flag)

    assert result.exit_code == 0
    example = re.search(rf"Example: facesphere-train {command} (.+)", result.stdout)
    assert example
    for option in re.findall(r"--[a-z-]+", example[1]):
        assert re.search(rf"^  {option}\b", result.stdout, re.MULTILINE)


def test_as_a_module_it_shows_its_commands() -> None:
    result = _process("--help")

    assert result.returncode == 0
    assert "evaluate" in result.stdout
    assert "calibrate" in result.stdout
    assert result.stderr == ""


def test_as_a_module_it_ends_in_one_line_where_the_data_are_no_archive(models_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "people.tar"
    path.write_bytes(b"this is no archive")

    result = _process("evaluate", "--data", path, "--registry", models_dir)

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [f"Error: cannot read {path}: file could not be opened successfully"]


def test_data_that_are_not_there_are_one_line(models_dir: Path, tmp_path: Path) -> None:
    line = _error_line(_run("evaluate", "--data", tmp_path / "nowhere", "--registry", models_dir))

    assert "nowhere" in line
    assert "does not exist" in line


def test_a_registry_without_models_is_one_line(people: Path, tmp_path: Path) -> None:
    line = _error_line(_run("evaluate", "--data", people, "--registry", tmp_path / "nowhere"))

    assert line == "Error: there is no detector yet; run: facesphere models pull"


@pytest.mark.parametrize("option", ["--model", "--detector"])
def test_a_model_that_is_not_there_is_named_in_one_line(people: Path, models_dir: Path, option: str) -> None:
    line = _error_line(_run("evaluate", "--data", people, "--registry", models_dir, option, "nobody"))

    assert "'nobody'" in line


def test_a_detector_is_no_embedder(people: Path, registry: Registry, models_dir: Path) -> None:
    detector = registry.champion("detector")

    line = _error_line(_run("evaluate", "--data", people, "--registry", models_dir, "--model", detector))

    assert "is a detector, not an embedder" in line


def test_an_empty_folder_is_one_line(models_dir: Path, tmp_path: Path) -> None:
    line = _error_line(_run("evaluate", "--data", tmp_path, "--registry", models_dir))

    assert "holds no photos in the layout PERSON/PHOTO.jpg" in line


@pytest.mark.parametrize("command", [("evaluate",), ("calibrate", "--out", "manifest.json")])
def test_too_few_photos_are_told_with_the_number_of_pairs(
    command: tuple[str, ...], models_dir: Path, tmp_path: Path, face_photo: bytes
) -> None:
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(face_photo)

    line = _error_line(_run(*command, "--data", tmp_path, "--registry", models_dir))

    assert line == "Error: 2 impostor pairs are too few to state false-match rates"


def test_people_with_one_photo_each_are_told(models_dir: Path, tmp_path: Path, face_photo: bytes) -> None:
    for name in ("ann/1.jpg", "bob/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(face_photo)

    line = _error_line(_run("evaluate", "--data", tmp_path, "--registry", models_dir))

    assert "no person has two photos" in line


@pytest.mark.parametrize(("option", "value"), [("--threads", "0"), ("--rounds", "3"), ("--face", "smallest")])
def test_an_option_out_of_range_is_one_line_before_any_work(
    people: Path, models_dir: Path, option: str, value: str
) -> None:
    line = _error_line(_run("evaluate", "--data", people, "--registry", models_dir, option, value))

    assert option in line


def test_calibrate_without_a_place_for_the_result_is_refused_before_any_work(people: Path, models_dir: Path) -> None:
    line = _error_line(_run("calibrate", "--data", people, "--registry", models_dir))

    assert line == "Error: state --out FILE, --apply, or both"


def test_evaluate_prints_the_rates_with_intervals(people: Path, models_dir: Path) -> None:
    result = _run("evaluate", "--data", people, "--registry", models_dir, "--rounds", 20, "--threads", 2)

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    facts, header, rows = lines[:3], lines[3], lines[4:]
    assert facts == [
        f"photos {2 * PEOPLE}, people {PEOPLE}, face: largest",
        "failure to enrol: 0 (0.0000%)",
        f"genuine pairs {PEOPLE}, impostor pairs 2,244",
    ]
    assert header.split()[:2] == ["FMR", "TAR"]
    numbers = [[float(text) for text in re.findall(r"[\d.e-]*\d", row)] for row in rows]
    assert [row[0] for row in numbers] == [0.1, 0.05]
    for _, tar, tar_low, tar_high, threshold, threshold_low, threshold_high in numbers:
        assert 0 <= tar_low <= tar <= tar_high <= 1
        assert -1 <= threshold_low <= threshold <= threshold_high <= 1
    assert re.fullmatch(r"embedding: 68 photos in \d+ s", result.stderr.strip())


def test_calibrate_writes_the_manifest_and_stores_it_with_the_model(
    people: Path, own_registry: Path, tmp_path: Path
) -> None:
    before = Registry(own_registry).resolve("embedder").manifest
    out = tmp_path / "manifest.json"

    result = _run(
        "calibrate", "--data", people, "--registry", own_registry, "--rounds", 20, "--out", out, "--apply",
        "--describe", "bent faces",
    )  # fmt: skip

    assert result.exit_code == 0
    written = bundles.read_manifest(out)
    stored = Registry(own_registry).resolve("embedder").manifest
    assert stored == written
    assert stored.contract_id == before.contract_id
    assert stored.calibration is not None
    assert stored.calibration.data == "bent faces"
    assert stored.calibration.detector == Registry(own_registry).champion("detector")
    assert stored.calibration.fmr_range == (0.05, 0.1)
    assert stored.calibration != before.calibration
    assert result.stdout == f"{before.id}: calibrated for FMR 0.05 to 0.1 on 68 photos\n"


def test_a_place_that_cannot_be_written_is_one_line_before_any_work(
    people: Path, models_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "nowhere" / "manifest.json"

    result = _run("calibrate", "--data", people, "--registry", models_dir, "--out", out)

    assert _error_line(result) == f"Error: cannot write {out}: there is no folder {out.parent}"
    assert "embedding" not in result.stderr


def test_calibrate_into_a_folder_s_place_is_one_line(models_dir: Path, people: Path, tmp_path: Path) -> None:
    line = _error_line(_run("calibrate", "--data", people, "--registry", models_dir, "--rounds", 20, "--out", tmp_path))

    assert line == f"Error: cannot write {tmp_path}: Is a directory"
