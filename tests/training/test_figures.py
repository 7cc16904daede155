"""The pictures of docs/losses.md: their numbers against definitions, and the text against the numbers."""

import gzip
import json
import math
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from training.__main__ import main
from training.data.errors import DataError
from training.data.mnist import read_mnist
from training.figures import angles, features, margin, psi, results
from training.figures.runs import VARIANTS, Plan, Run, config_of, run_of
from training.losses.l_softmax import LSoftmax

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "figures"
TEXT = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
RESULTS = json.loads((PICTURES / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """MNIST's four files with 80 digits each: noise, brighter in a place that is the digit's own."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = np.arange(80, dtype=np.uint8) % 10
    images = rng.integers(0, 60, (80, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 6, 4:20] = 255
    for part in ("train", "t10k"):
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return folder


def _synthetic(count: int = 400) -> Run:
    """Ten rays, evenly spread, and a classifier that points along them."""
    rng = np.random.default_rng(1)
    labels = (np.arange(count) % 10).astype(np.int32)
    turn = 2 * np.pi * labels / 10 + rng.normal(0, 0.05, count)
    length = rng.uniform(1, 20, count)
    points = np.stack([length * np.cos(turn), length * np.sin(turn)], axis=1).astype(np.float32)
    return Run(points, labels, _even_weights(), 0.9, 0)


def _even_weights() -> np.ndarray:
    turn = 2 * np.pi * np.arange(10) / 10
    return np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


def _two_weights(angle: float, lengths: tuple[float, float], m: int) -> LSoftmax:
    """L-Softmax of two classes whose weights have this angle, turned away from the axes."""
    loss = LSoftmax(2, 2, m).double().eval()
    rows = [[lengths[0] * math.cos(0.7), lengths[0] * math.sin(0.7)]]
    rows += [[lengths[1] * math.cos(0.7 + angle), lengths[1] * math.sin(0.7 + angle)]]
    loss.weight.data = torch.tensor(rows, dtype=torch.float64)
    return loss


@pytest.mark.parametrize("m", psi.MARGIN_VALUES)
def test_the_curve_of_psi_is_its_definition(m: int) -> None:
    curve = psi.curve(m)
    k = np.minimum(np.floor(curve.angle * m / np.pi), m - 1)

    np.testing.assert_allclose(curve.value, (-1) ** k * np.cos(m * curve.angle) - 2 * k, atol=1e-7)


@pytest.mark.parametrize("m", psi.MARGIN_VALUES)
def test_the_slope_of_psi_is_m_squared_at_zero_and_nothing_at_a_right_angle_for_even_m(m: int) -> None:
    curve = psi.curve(m)

    assert curve.slope[0] == pytest.approx(m**2)
    assert curve.slope[len(curve.slope) // 2] == pytest.approx(0 if m % 2 == 0 else m, abs=1e-12)


@pytest.mark.parametrize("m", margin.MARGIN_VALUES)
@pytest.mark.parametrize("angle", [0.2, 1.0, 2.9])
def test_with_equal_weights_the_boundary_is_at_the_angle_over_m_plus_1(m: int, angle: float) -> None:
    loss = _two_weights(angle, (1.7, 1.7), m)

    assert margin.boundary(loss, 0, 1) == pytest.approx(angle / (m + 1), abs=1e-9)
    assert margin.between_boundaries(loss) == pytest.approx((angle, angle * (m - 1) / (m + 1)), abs=1e-9)


def test_with_unequal_weights_the_boundary_is_where_the_logits_meet() -> None:
    loss = _two_weights(1.2, (2.0, 1.5), 1)
    meeting = math.atan2(2.0 - 1.5 * math.cos(1.2), 1.5 * math.sin(1.2))

    assert margin.boundary(loss, 0, 1) == pytest.approx(meeting, abs=1e-9)
    assert margin.boundary(loss, 1, 0) == pytest.approx(1.2 - meeting, abs=1e-9)


def test_weights_on_one_line_have_no_arc_between_them() -> None:
    with pytest.raises(ValueError, match="on one line"):
        margin.boundary(_two_weights(math.pi, (1, 1), 2), 0, 1)


def test_the_toy_problem_is_learned_and_has_the_margin_of_the_theory() -> None:
    found = margin.toy(2, common=0.0, steps=150)

    assert found.correct > 0.9
    assert found.boundaries == pytest.approx(found.predicted, abs=1e-6)


def test_angles_of_pairs_are_the_shorter_way_round() -> None:
    turn = np.radians([10, 350, 100])
    points = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)

    found = angles.pairs(points * 3, np.array([0, 0, 1], np.int32))

    np.testing.assert_allclose(found.within, [20], atol=1e-4)
    np.testing.assert_allclose(np.sort(found.between), [90, 110], atol=1e-4)


def test_the_order_of_pairs_is_the_share_of_comparisons_that_are_right() -> None:
    rng = np.random.default_rng(2)
    within, between = rng.integers(0, 9, 50).astype(float), rng.integers(3, 14, 70).astype(float)
    right = (between > within[:, None]).mean() + 0.5 * (between == within[:, None]).mean()

    assert angles.Pairs(within, between).order == pytest.approx(right)


@pytest.mark.parametrize("m", angles.MARGIN_VALUES)
def test_ten_even_classes_have_the_regions_of_the_theory(m: int) -> None:
    found = angles.regions(_even_weights(), m)

    assert found.widest == pytest.approx(72 / (m + 1), abs=0.11)
    assert found.nearest == pytest.approx(36 * (m - 1) / (m + 1), abs=0.11)
    assert found.empty == 0


def test_a_class_without_a_direction_of_its_own_is_counted() -> None:
    weight = _even_weights()
    weight[3] = weight[4]

    assert angles.regions(weight, 2).empty >= 1


def test_a_digit_whose_weight_is_too_short_is_lost_unless_rows_have_length_1() -> None:
    run = _synthetic()
    assert run.weight is not None
    run.weight[3] *= 0.1

    assert features.lost(run, unit=False) == [3]
    assert features.lost(run, unit=True) == []


def test_every_picture_is_drawn_from_features_and_small_enough_for_a_page(tmp_path: Path) -> None:
    run = _synthetic()
    by_margin = dict.fromkeys(angles.MARGIN_VALUES, run)
    measured = [margin.Measured(m, 90, 90 * (m - 1) / (m + 1), 1.0, 0.0) for m in margin.MARGIN_VALUES]
    regions = {m: angles.regions(_even_weights(), m) for m in angles.MARGIN_VALUES}

    made = [
        psi.draw(tmp_path),
        features.draw({variant.name: run for variant in VARIANTS[:2]}, tmp_path),
        angles.draw_histograms(dict.fromkeys(angles.COMPARED, run), tmp_path),
        margin.draw(measured, tmp_path),
        angles.draw_regions(regions, by_margin, tmp_path),
    ]

    assert sorted(path.name for path in made) == sorted(path.name for path in tmp_path.iterdir())
    for path in made:
        assert path.stat().st_size < 150_000
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            Image.open(path).load()


def test_the_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    first = psi.draw(tmp_path / "a").read_bytes()

    assert psi.draw(tmp_path / "b").read_bytes() == first


def test_all_runs_have_the_same_network_and_number_of_steps() -> None:
    configs = [config_of(variant, Plan(Path("digits"), 100, 1)) for variant in VARIANTS]

    assert (
        len({(config.backbone.name, config.dimension, config.steps, config.batch, config.seed) for config in configs})
        == 1
    )
    assert len({config.name for config in configs}) == len(VARIANTS)


def test_a_run_is_trained_once_and_then_read_from_the_cache(digits: Path, tmp_path: Path) -> None:
    plan, test = Plan(digits, 2, 1), read_mnist(digits, "test")

    first = run_of(VARIANTS[0], plan, test, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("softmax-*/features.npz")
    written = kept.stat().st_mtime_ns
    again = run_of(VARIANTS[0], plan, test, tmp_path / "cache")

    assert kept.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.features, again.features)
    assert first.features.shape == (80, 2)
    assert first.weight is not None
    assert first.accuracy == np.mean((first.features @ first.weight.T).argmax(axis=1) == first.labels)

    kept.write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"features\.npz is damaged"):
        run_of(VARIANTS[0], plan, test, tmp_path / "cache")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--data", "."), "has no file train-images"),
        (("--data", ".", "--only", "psi,portrait"), "portrait"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["figures", *arguments, "--out", str(tmp_path / "out")])

    assert isinstance(result.exception, SystemExit)
    assert said in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "out").exists()


def test_pictures_of_no_digits_are_made_and_numbers_of_others_stay(digits: Path, tmp_path: Path) -> None:
    results.write(tmp_path, {"margin": []})

    result = CliRunner().invoke(main, ["figures", "--data", str(digits), "--out", str(tmp_path), "--only", "psi"])

    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "psi.svg").exists()
    assert set(results.read(tmp_path)) == {"margin", "psi", "settings", "versions"}


@pytest.mark.parametrize("name", ["features", "angles", "margin", "m_min"])
def test_the_tables_of_the_text_are_the_measured_ones(name: str) -> None:
    assert results.tables(RESULTS)[name] in TEXT


def test_the_numbers_in_sentences_are_the_measured_ones() -> None:
    text = " ".join(TEXT.split())

    for sentence in results.sentences(RESULTS):
        assert sentence in text


def test_the_pictures_of_the_text_are_there_and_small() -> None:
    named = re.findall(r"!\[[^\]]+\]\(figures/([^)]+)\)", TEXT)

    assert set(named) == {path.name for path in PICTURES.iterdir()} - {"results.json"}
    assert all((PICTURES / name).stat().st_size < 150_000 for name in named)


def test_the_text_names_every_loss_and_its_parameters() -> None:
    for name in ("softmax", "l_softmax", "a_softmax", "center", "triplet", "cosface", "arcface"):
        assert f"`{name}`" in TEXT
