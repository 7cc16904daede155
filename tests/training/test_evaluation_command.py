"""facesphere-train evaluate: aligned sets, listed pairs, reports, and who was trained on."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from crops import people_set
from onnx import TensorProto, helper, numpy_helper
from photos import ROOT, encode

from models import bundle as bundles
from models.bundle import Manifest, seal
from models.registry import Registry
from training.__main__ import main
from training.data.aligned import AlignedSet

SIZE = 16
VALUES = 32
PEOPLE, IMAGES = 40, 4
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def registry_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one embedder: a linear map of the pixels."""
    weights = np.random.default_rng(9).normal(size=(3 * SIZE * SIZE, VALUES)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["embedding"])]
    shapes = {"input": ["batch", 3, SIZE, SIZE], "embedding": ["batch", VALUES]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "linear", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    root = tmp_path_factory.mktemp("models")
    registry = Registry(root)
    registry.add(model, _manifest(model))
    registry.promote("linear")
    return root


def _manifest(model: bytes) -> Manifest:
    fields: dict[str, Any] = {
        "id": "linear",
        "kind": "embedder",
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "input": {"width": SIZE, "height": SIZE, "channels": "rgb", "mean": [127] * 3, "std": [50] * 3},
        "template": "arcface",
        "dimension": VALUES,
        "licence": {"spdx": "Apache-2.0", "commercial_use": True},
        "provenance": {"origin": "a test"},
    }
    return seal(Manifest.model_validate(fields))


def _save(folder: Path, data: AlignedSet, template: str | None = "arcface", **groups: Sequence[str]) -> Path:
    people_of = [data.people[label] for label in data.labels]
    AlignedSet.of(np.asarray(data.crops), people_of, data.photos, template, data.source, groups).save(folder)
    return folder


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 crops of 40 people; every other person is of a group whose name is an attack on the report."""
    data = people_set(PEOPLE, IMAGES, SIZE, noise=90)
    kinds = ["plain" if label % 2 else EVIL for label in data.labels]
    return _save(tmp_path_factory.mktemp("set") / "crops", data, kind=kinds)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _evaluate(data: Path, registry: Path, *arguments: object) -> Result:
    return _run("evaluate", "--data", data, "--registry", registry, "--threads", 1, "--rounds", 20, *arguments)


def _error(result: Result) -> str:
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    return errors[0]


def _json(data: Path, registry: Path, tmp_path: Path, *arguments: object) -> dict[str, Any]:
    result = _evaluate(data, registry, "--json", tmp_path / "out.json", *arguments)
    assert result.exit_code == 0, result.stderr
    value: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    return value


def test_of_an_aligned_set_the_rates_and_the_accuracy_in_folds_are_printed(aligned: Path, registry_dir: Path) -> None:
    result = _evaluate(aligned, registry_dir)

    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f"photos {PEOPLE * IMAGES}, people {PEOPLE}, face: as aligned",
        "failure to enrol: 0 (0.0000%)",
        f"genuine pairs {PEOPLE * 6}, impostor pairs 12,480",
    ]
    assert lines[3].startswith("FMR     TAR")
    form = r"accuracy in 10 folds: (0\.\d{4}) \+- 0\.\d{4} \(240 genuine, 240 impostor pairs\)"
    found = re.fullmatch(form, lines[-1])
    assert found
    assert 0.7 < float(found[1]) < 1


def test_an_aligned_set_can_be_calibrated_on(aligned: Path, registry_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.json"

    result = _run("calibrate", "--data", aligned, "--registry", registry_dir, "--rounds", 20, "--out", out)

    assert result.exit_code == 0, result.stderr
    calibration = bundles.read_manifest(out).calibration
    assert calibration is not None
    assert calibration.images == PEOPLE * IMAGES


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]


def test_the_report_is_one_page_that_needs_nothing_else_and_runs_nothing(
    aligned: Path, registry_dir: Path, tmp_path: Path
) -> None:
    result = _evaluate(aligned, registry_dir, "--report", tmp_path / "out.html")

    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "out.html").read_text()
    page = _Page(text)
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)" in text
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert all(name in page.ids for name in re.findall(r"url\(#([^)]+)\)", text))
    assert len(page.ids) == len(set(page.ids))
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    for heading in ("Verification, 1:1", "Identification, 1:N", "Groups"):
        assert f"<h2>{heading}</h2>" in text


def test_the_same_data_give_the_same_files(aligned: Path, registry_dir: Path, tmp_path: Path) -> None:
    names = [(tmp_path / f"{number}.html", tmp_path / f"{number}.json") for number in range(2)]
    for report, numbers in names:
        assert _evaluate(aligned, registry_dir, "--report", report, "--json", numbers).exit_code == 0

    (report, numbers), (report_again, numbers_again) = names
    assert report.read_bytes() == report_again.read_bytes()
    assert numbers.read_bytes() == numbers_again.read_bytes()


def test_the_json_has_all_numbers(aligned: Path, registry_dir: Path, tmp_path: Path) -> None:
    found = _json(aligned, registry_dir, tmp_path)

    assert found["facts"]["model"] == "linear"
    assert (found["genuine_pairs"], found["impostor_pairs"]) == (240, 12_480)
    assert [point["fmr"] for point in found["rates"]] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    stated = [point["tar"] is not None for point in found["rates"]]
    assert stated == [True, True, True, False, False, False]  # 3 of 12,480 is 2.4e-4
    assert "at most 3/N = 2.4e-04 at 95 %" in found["rates"][3]["note"]
    assert all(point["interval"] == "bootstrap over people" for point in found["rates"][:3])
    assert found["identification"]["mated"] == 32 * (IMAGES - 1)  # every fifth person is a stranger
    assert found["identification"]["non_mated"] == 8 * IMAGES
    assert [row["value"] for row in found["groups"]["rows"]] == [EVIL, "plain"]
    assert len(found["verification"]["result"]["folds"]) == 10


def test_crops_of_another_size_in_the_same_shape_are_scaled(registry_dir: Path, tmp_path: Path) -> None:
    small = people_set(PEOPLE, IMAGES, SIZE, noise=90)
    large = AlignedSet.of(
        np.asarray(small.crops).repeat(2, axis=1).repeat(2, axis=2),
        [small.people[label] for label in small.labels],
        small.photos,
    )

    first = _json(_save(tmp_path / "small", small), registry_dir, tmp_path)
    second = _json(_save(tmp_path / "large", large), registry_dir, tmp_path)

    assert first["rates"] == second["rates"]


@pytest.mark.parametrize(
    ("shape", "template", "said"),
    [
        ((SIZE, SIZE, 1), None, "is fed RGB crops, these have 1 channel"),
        ((SIZE, SIZE, 3), "sphereface", "is fed crops of template arcface, these are sphereface"),
        ((28, 24, 3), None, "is fed crops of 16 x 16, these are 28 x 24"),
    ],
)
def test_crops_that_the_model_is_not_fed_are_refused(
    registry_dir: Path, tmp_path: Path, shape: tuple[int, int, int], template: str | None, said: str
) -> None:
    crops = np.zeros((4, *shape), np.uint8)
    AlignedSet.of(crops, ["a", "a", "b", "b"], list("1234"), template).save(tmp_path / "set")

    assert said in _error(_evaluate(tmp_path / "set", registry_dir))


def test_a_crop_without_a_direction_is_named(registry_dir: Path, tmp_path: Path) -> None:
    crops = np.full((4, SIZE, SIZE, 3), 127, np.uint8)
    AlignedSet.of(crops, ["a", "a", "b", "b"], list("1234")).save(tmp_path / "set")

    assert "a crop between '1' and '4'" in _error(_evaluate(tmp_path / "set", registry_dir))


def test_a_small_set_has_a_report_that_says_what_it_cannot_tell(registry_dir: Path, tmp_path: Path) -> None:
    data = _save(tmp_path / "set", people_set(4, 3, SIZE))

    result = _evaluate(data, registry_dir, "--report", tmp_path / "out.html")

    assert result.exit_code == 0, result.stderr
    assert "FMR 1e-02  not measurable: 54 impostor pairs show no more than FMR at most 3/N = 5.6e-02" in result.stdout
    assert "people may be in several folds" in result.stdout
    assert "there are no non-mated probes" in (tmp_path / "out.html").read_text()


def test_mirror_images_are_another_contract_and_other_numbers(
    aligned: Path, registry_dir: Path, tmp_path: Path
) -> None:
    plain, mirrored = (_json(aligned, registry_dir, tmp_path, *extra) for extra in ((), ("--mirror",)))

    assert (plain["facts"]["mirror"], mirrored["facts"]["mirror"]) == (False, True)
    assert plain["facts"]["contract"] != mirrored["facts"]["contract"]
    assert plain["curves"] != mirrored["curves"]
    assert not Registry(registry_dir).resolve("embedder").manifest.mirror


def _pairs(tmp_path: Path, group: bool = False) -> Path:
    """Each person's first two photos, and the first of each with the second of the next."""
    lines = [f"person-{n:02d}/0,person-{n:02d}/1,1,{'ab'[n % 2]}" for n in range(PEOPLE)]
    lines += [f"person-{n:02d}/0,person-{(n + 1) % PEOPLE:02d}/1,0,{'ab'[n % 2]}" for n in range(PEOPLE)]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["photo_a,photo_b,same,group", *lines]))
    return path


def test_listed_pairs_are_all_that_is_compared(aligned: Path, registry_dir: Path, tmp_path: Path) -> None:
    result = _evaluate(aligned, registry_dir, "--pairs", _pairs(tmp_path), "--report", tmp_path / "out.html")
    found = _json(aligned, registry_dir, tmp_path, "--pairs", _pairs(tmp_path))

    assert f"({PEOPLE} genuine, {PEOPLE} impostor pairs, people may be in several folds)" in result.stdout
    assert (found["genuine_pairs"], found["impostor_pairs"]) == (PEOPLE, PEOPLE)
    assert found["identification"] is None
    assert found["rates"][0]["interval"] == "Wilson"
    assert [row["value"] for row in found["groups"]["rows"]] == ["a", "b"]


def test_a_pair_with_a_photo_without_a_face_counts_as_rejected(registry_dir: Path, tmp_path: Path) -> None:
    whole = people_set(PEOPLE, IMAGES, SIZE, noise=20)
    data = _save(tmp_path / "set", whole.subset(np.arange(len(whole)) != 0))
    (data / "skipped.csv").write_text("photo,person,code,message\nperson-00/0,person-00,no_face,no face was found\n")

    found = _json(data, registry_dir, tmp_path, "--pairs", _pairs(tmp_path))

    assert found["notes"] == ["2 pairs with a photo in which no face was found count as rejected"]
    assert found["verification"]["result"]["mean"] == pytest.approx(1 - 1 / (2 * PEOPLE))
    assert found["facts"]["failure to enrol"] == pytest.approx(1 / (PEOPLE * IMAGES))


def test_a_bin_has_photos_and_pairs(registry_dir: Path, tmp_path: Path) -> None:
    data = people_set(20, 3, SIZE, noise=20)
    crops = [encode(np.asarray(crop)) for crop in data.crops]
    same = [(crops[3 * n], crops[3 * n + 1]) for n in range(20)]
    apart = [(crops[3 * n], crops[(3 * n + 4) % 60]) for n in range(20)]
    mixed = [pair for both in zip(same, apart, strict=True) for pair in both]
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([photo for pair in mixed for photo in pair], [True, False] * 20)))

    result = _evaluate(path, registry_dir)

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[:2] == [
        "photos 80, pairs 40",
        "accuracy in 10 folds: 1.0000 +- 0.0000 (20 genuine, 20 impostor pairs, people may be in several folds)",
    ]
    assert "does not say who is on them" in _error(
        _run("calibrate", "--data", path, "--registry", registry_dir, "--out", tmp_path / "out.json")
    )
    (tmp_path / "trained.txt").write_text("Ann\n")
    refused = _evaluate(path, registry_dir, "--trained-on", tmp_path / "trained.txt")
    assert "--trained-on cannot be checked" in _error(refused)


@pytest.mark.parametrize("form", ["list", "csv", "folder", "set"])
def test_a_person_who_was_trained_on_is_named_before_any_work(
    aligned: Path, registry_dir: Path, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "trained"
    if form == "list":
        path.write_text("Somebody Else\nPERSON-07\n")
    elif form == "csv":
        path = tmp_path / "trained.csv"
        path.write_text("path,person\na.jpg,person-07\n")
    elif form == "folder":
        (path / "person-07").mkdir(parents=True)
    else:
        part = AlignedSet.open(aligned)
        part.subset(part.labels == 7).save(path)

    result = _evaluate(aligned, registry_dir, "--trained-on", path)

    assert _error(result) == "Error: 1 people of the evaluation were trained on, 'person-07' is one"
    assert "embedding" not in result.stderr


def test_a_list_of_others_lets_the_evaluation_pass(aligned: Path, registry_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "trained.txt").write_text("Somebody Else\n")

    assert _evaluate(aligned, registry_dir, "--trained-on", tmp_path / "trained.txt").exit_code == 0


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_a_place_that_is_not_there_is_one_line_before_any_work(
    aligned: Path, registry_dir: Path, tmp_path: Path, option: str
) -> None:
    result = _evaluate(aligned, registry_dir, option, tmp_path / "nowhere" / "out")

    assert "there is no folder" in _error(result)
    assert "embedding" not in result.stderr


def _a_run(folder: Path, data: Path, held_out: Sequence[str]) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"held_out": list(held_out)}))
    (folder / "config.yaml").write_text(f"data:\n  train: {data}\n")
    return folder


def test_only_those_whom_a_run_held_out_are_evaluated_and_they_were_not_trained_on(
    aligned: Path, registry_dir: Path, tmp_path: Path
) -> None:
    kept = [f"person-{number:02d}" for number in range(0, PEOPLE, 2)]
    run = _a_run(tmp_path / "run", aligned, kept)

    found = _json(aligned, registry_dir, tmp_path, "--held-out", run, "--trained-on", run)

    assert (found["facts"]["people"], found["facts"]["photos"]) == (len(kept), len(kept) * IMAGES)
    assert str(run) in found["facts"]["data"]
    refused = _evaluate(aligned, registry_dir, "--trained-on", run)
    assert _error(refused) == "Error: 20 people of the evaluation were trained on, 'person-01' is one"


@pytest.mark.parametrize(
    ("held_out", "said"),
    [([], "held nobody out"), (["Ann"], "none of the 1 people that"), (None, "is no run of facesphere-train train")],
)
def test_a_run_that_held_out_nobody_of_the_set_is_told(
    aligned: Path, registry_dir: Path, tmp_path: Path, held_out: Sequence[str] | None, said: str
) -> None:
    run = tmp_path if held_out is None else _a_run(tmp_path / "run", aligned, held_out)

    assert said in _error(_evaluate(aligned, registry_dir, "--held-out", run))


def test_photos_that_are_not_aligned_have_nobody_held_out(registry_dir: Path, tmp_path: Path) -> None:
    run = _a_run(tmp_path / "run", tmp_path, ["Ann"])

    assert "--held-out needs an aligned set" in _error(_evaluate(tmp_path, registry_dir, "--held-out", run))


def test_a_run_whose_set_is_gone_cannot_say_whom_it_was_trained_on(
    aligned: Path, registry_dir: Path, tmp_path: Path
) -> None:
    run = _a_run(tmp_path / "run", tmp_path / "gone", ["Ann"])

    line = _error(_evaluate(aligned, registry_dir, "--trained-on", run))

    assert "cannot be told: its set" in line
    assert "name a list instead" in line


def test_a_model_that_tells_nobody_apart_has_a_report_too(registry_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(256, size=(120, SIZE, SIZE, 3), dtype=np.uint8)
    people = [f"person-{number % 40:02d}" for number in range(120)]
    AlignedSet.of(noise, people, [str(number) for number in range(120)], "arcface").save(tmp_path / "set")

    found = _json(tmp_path / "set", registry_dir, tmp_path)

    assert 0.4 < found["equal_error_rate"] < 0.6
    assert 0.4 < found["area_under_roc"] < 0.6


def test_listed_groups_open_set_and_bounds_are_printed(aligned: Path, registry_dir: Path, tmp_path: Path) -> None:
    result = _evaluate(aligned, registry_dir, "--json", tmp_path / "out.json")

    lines = result.stdout.splitlines()
    assert any(re.fullmatch(r"FPIR 1e-01  FNIR 0\.\d{4} \(0\.\d{4} \.\. [01]\.\d{4}\)", line) for line in lines)
    assert any(line.startswith("FPIR 1e-02  not measurable: 32 non-mated probes") for line in lines)
    assert any(re.fullmatch(r"  kind plain: FMR \S+ \(.*\), FNMR \S+ \(.*\)", line) for line in lines)


def test_evaluation_needs_no_torch() -> None:
    names = [f"training.evaluation.{file.stem}" for file in (ROOT / "training" / "evaluation").glob("[a-z]*.py")]
    code = "import sys, importlib; sys.modules['torch'] = None; [importlib.import_module(n) for n in sys.argv[1:]]"

    subprocess.run([sys.executable, "-c", code, "training.commands.evaluate", *names], check=True, cwd=ROOT, timeout=60)
