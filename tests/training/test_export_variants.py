"""Smaller variants: what they compute, what they may lose, and that a broken one is never kept."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from models import bundle as bundles
from models.bundle import InputSpec, Licence
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from training.__main__ import main
from training.backbones import build
from training.backbones.weights import load_bundle_weights
from training.config import parse_config
from training.data.aligned import AlignedSet
from training.data.people import DataError
from training.export import gate, measure
from training.export.bundle import make_manifest
from training.export.checkpoint import Trained, load_trained
from training.export.errors import ExportError, VariantRefusedError
from training.export.gate import Gate
from training.export.material import material
from training.export.onnx import export_onnx
from training.export.parity import embed_all
from training.export.pipeline import Request, embedder_of, export_model, input_spec, template_of
from training.export.variants import to_fp16, to_int8
from training.trainer import checkpoint as files
from training.trainer.checkpoint import CheckpointError

SIZE, DIMENSION, PEOPLE, PHOTOS = 32, 16, 64, 3
LOOSE = {"fp16": Gate(1, 1, 0.99), "int8": Gate(1, 1, 0.8)}
CONFIG: dict[str, Any] = {
    "name": "unit",
    "data": {"train": "aligned"},
    "input": {"height": SIZE, "width": SIZE},
    "dimension": DIMENSION,
    "backbone": {"name": "mobilenet", "params": {"width": 0.25}},
    "loss": {"name": "arcface"},
    "steps": 1,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data() -> AlignedSet:
    """64 people: soft blots of colour; a person's photos differ by noise and light."""
    rng = np.random.default_rng(0)
    crops, names, photos = [], [], []
    for person in range(PEOPLE):
        face = rng.uniform(0, 255, (4, 4, 3)).repeat(SIZE // 4, axis=0).repeat(SIZE // 4, axis=1)
        for number in range(PHOTOS):
            noisy = face * rng.uniform(0.7, 1.3) + rng.normal(0, 60, face.shape)
            crops.append(np.clip(noisy, 0, 255).astype(np.uint8))
            names.append(f"p{person:02}")
            photos.append(f"p{person:02}/{number}.png")
    return AlignedSet.of(np.stack(crops), names, photos, "arcface", "made up")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: AlignedSet) -> Path:
    """A run's folder with one checkpoint of a small real backbone, its normalisation warmed up on the crops."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build("mobilenet", DIMENSION, (SIZE, SIZE), width=0.25).train()
    pixels = torch.from_numpy(np.array(data.crops)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        for _ in range(6):
            network((pixels - 127.5) / 128)
    folder = tmp_path_factory.mktemp("runs") / "run"
    state = {"config": parse_config(CONFIG).model_dump(mode="json"), "step": 7, "model": network.state_dict()}
    files.write(folder / "checkpoints" / files.name(7), {**state, "average": None})
    return folder


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load_trained(run)


@pytest.fixture(scope="module")
def model(trained: Trained) -> bytes:
    return export_onnx(trained.module, (SIZE, SIZE))


def _request(**changes: Any) -> Request:
    return replace(Request("unit", Licence(spdx="Apache-2.0", commercial_use=True), gates=LOOSE), **changes)


def _export(trained: Trained, out: Path, data: AlignedSet | None, **changes: Any) -> list[str]:
    said: list[str] = []
    export_model(trained, _request(**changes), out, data, said.append)
    return said


def _vectors(model: bytes, trained: Trained, data: AlignedSet) -> NDArray[np.float32]:
    manifest = make_manifest(
        model, id="unit", input=input_spec(trained), template="arcface", dimension=DIMENSION,
        licence={"spdx": "x", "commercial_use": False}, provenance={"origin": "a test"},
    )  # fmt: skip
    return embed_all(embedder_of(model, manifest), list(data.crops))


def test_fp16_is_half_the_size_with_float32_at_both_ends_and_the_same_vectors(
    model: bytes, trained: Trained, data: AlignedSet
) -> None:
    small = to_fp16(model)
    graph = onnx.load_model_from_string(small).graph

    assert len(small) < 0.6 * len(model)
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    assert (graph.input[0].name, graph.output[0].name) == ("input", "embedding")
    assert {t.data_type for t in graph.initializer if len(t.dims) == 4} == {onnx.TensorProto.FLOAT16}
    cosines = (_vectors(small, trained, data) * _vectors(model, trained, data)).sum(axis=1)
    assert cosines.min() > 0.9999


def test_int8_has_8_bit_weights_of_7_bits_range_per_channel_and_a_float_embedding(
    model: bytes, trained: Trained, data: AlignedSet
) -> None:
    small = to_int8(model, data.crops[:64], input_spec(trained))
    graph = onnx.load_model_from_string(small).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    kernels = [weight for weight in weights if weight.ndim == 4]
    last = next(node for node in graph.node if "embedding" in node.output)

    assert len(small) < 0.6 * len(model)
    assert kernels
    assert all(np.abs(weight.astype(int)).max() <= 64 for weight in kernels)
    assert all(
        (np.abs(weight.astype(int)).reshape(len(weight), -1).max(axis=1) >= 63).mean() > 0.9 for weight in kernels
    )
    assert last.op_type != "DequantizeLinear"
    cosines = (_vectors(small, trained, data) * _vectors(model, trained, data)).sum(axis=1)
    assert 0.9 < cosines.mean() < 1 - 1e-6


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_variant_keeps_its_free_batch_axis(model: bytes, trained: Trained, data: AlignedSet, count: int) -> None:
    some = data.subset(np.arange(count))
    for small in (to_fp16(model), to_int8(model, data.crops[:16], input_spec(trained))):
        np.testing.assert_allclose(_vectors(small, trained, some), _vectors(small, trained, data)[:count], atol=2e-3)


def test_what_is_no_network_is_refused_in_one_line(trained: Trained, data: AlignedSet) -> None:
    for convert in (lambda: to_fp16(b"x"), lambda: to_int8(b"x", data.crops[:2], input_spec(trained))):
        with pytest.raises(ExportError, match="cannot be converted") as caught:
            convert()
        assert "\n" not in caught.value.message


def test_each_variant_that_passes_is_a_bundle_of_its_own_that_a_registry_takes(
    trained: Trained, data: AlignedSet, tmp_path: Path
) -> None:
    said = _export(trained, tmp_path / "out", data, kinds=("fp16", "int8"))
    found = {folder.name: bundles.load(folder) for folder in (tmp_path / "out").iterdir()}
    registry = Registry(tmp_path / "models")
    for bundle in found.values():
        registry.add(bundle.model_path.read_bytes(), bundle.manifest, bundle.card())

    assert set(found) == {"unit", "unit-fp16", "unit-int8"}
    assert len({bundle.manifest.contract_id for bundle in found.values()}) == 3
    assert {bundle.manifest.provenance.source_sha256 for bundle in found.values()} == {trained.sha256}
    for name, bundle in found.items():
        vectors = Embedder(Session(bundle.model_path, SessionOptions("cpu")), bundle.manifest).embed(
            list(data.crops[:3])
        )
        assert vectors.shape == (3, DIMENSION)
        assert bundle.manifest.metrics["bytes"] == bundle.model_path.stat().st_size
        assert registry.resolve("embedder", name).card() == bundle.card()
    small = found["unit-int8"].manifest.metrics
    assert small["accuracy_float"] == found["unit"].manifest.metrics["accuracy"]
    assert 0.8 < small["mean_cosine"] < 1
    assert any(line.startswith("unit: at FMR 0.01 torch accepts") for line in said)
    assert any(line.startswith("unit-int8: mean cosine") for line in said)


def test_a_variant_with_ranges_from_constant_images_is_refused_and_not_kept(
    trained: Trained, data: AlignedSet, tmp_path: Path
) -> None:
    """Broken for real: activations of noisy faces do not fit into the ranges of black images."""
    black = np.array(data.crops)
    held = tuple(data.people[:40])
    black[data.labels >= 40] = 0
    names = [data.people[label] for label in data.labels]
    broken = AlignedSet.of(black, names, data.photos, "arcface", "made up")

    with pytest.raises(VariantRefusedError, match=r"unit-int8 was not kept: .*mean cosine to float is") as caught:
        _export(
            replace(trained, held_out=held),
            tmp_path,
            broken,
            kinds=("fp16", "int8"),
            gates=gate.GATES | {"fp16": LOOSE["fp16"]},
        )

    assert "\n" not in caught.value.message
    assert {folder.name for folder in tmp_path.iterdir()} == {"unit", "unit-fp16"}


def test_a_gate_that_nothing_passes_names_every_reason(trained: Trained, data: AlignedSet, tmp_path: Path) -> None:
    with pytest.raises(VariantRefusedError) as caught:
        _export(trained, tmp_path, data, kinds=("int8",), gates={"int8": Gate(-1, -1, 2)})

    for part in ("accuracy falls from", "TAR at FMR 1e-3 falls from", "mean cosine to float is"):
        assert part in caught.value.message
    assert {folder.name for folder in tmp_path.iterdir()} == {"unit"}


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({}, None),
        ({"accuracy": 0.895}, None),
        ({"accuracy": 0.89}, "accuracy falls from 0.9000 to 0.8900 (at most 0.005 may be lost)"),
        ({"accuracy": 0.95, "tar_at_fmr_1e-3": 0.75}, "TAR at FMR 1e-3 falls from 0.8000 to 0.7500 (at most 0.01"),
        ({"mean_cosine": 0.97}, "mean cosine to float is 0.9700 (at least 0.98)"),
        ({"mean_cosine": float("nan")}, "mean cosine"),
        ({"accuracy": float("nan")}, "accuracy falls"),
    ],
)
def test_the_gate_lets_pass_what_loses_no_more_than_allowed(metrics: dict[str, float], reason: str | None) -> None:
    same = {"accuracy": 0.9, "tar_at_fmr_1e-2": 0.5, "tar_at_fmr_1e-3": 0.8}
    all_of_them = {**same, **{f"{key}_float": value for key, value in same.items()}, "mean_cosine": 0.99, **metrics}
    limits = Gate(0.005 + 1e-12, 0.01, 0.98)
    if reason is None:
        gate.check(all_of_them, limits, "x")
        return
    with pytest.raises(VariantRefusedError) as caught:
        gate.check(all_of_them, limits, "x")
    assert caught.value.message.startswith(f"x was not kept: {reason}")


def test_where_pairs_are_too_few_for_a_rate_of_a_thousandth_the_gate_looks_at_a_hundredth() -> None:
    metrics = {
        "accuracy": 1.0,
        "accuracy_float": 1.0,
        "tar_at_fmr_1e-2": 0.5,
        "tar_at_fmr_1e-2_float": 0.9,
        "mean_cosine": 1.0,
    }

    with pytest.raises(VariantRefusedError, match="TAR at FMR 1e-2 falls"):
        gate.check(metrics, Gate(1, 0.1, 0), "x")


def test_accuracy_and_rates_are_those_of_a_count_by_hand() -> None:
    rng = np.random.default_rng(5)
    scores = measure.Scores(
        rng.normal(0.6, 0.2, 500).astype(np.float32), rng.normal(0.1, 0.2, 20000).astype(np.float32)
    )

    assert scores.rates == (1e-2, 1e-3)
    for rate, allowed in ((1e-2, 200), (1e-3, 20)):
        highest_not_allowed = np.sort(scores.impostor)[::-1][allowed]
        accepted = int((scores.genuine > highest_not_allowed).sum())
        assert measure.accepted_at(scores, rate) == accepted
        assert measure.tar_at(scores, rate) == accepted / 500
    assert measure.verification_accuracy(scores) == pytest.approx(
        0.894, abs=0.02
    )  # the normal distribution function at 1.25


def test_a_perfect_network_is_always_right_and_a_blind_one_half_of_the_time() -> None:
    rng = np.random.default_rng(6)
    perfect = measure.Scores(np.full(300, 0.9, np.float32), np.full(3000, 0.1, np.float32))
    blind = measure.Scores(rng.normal(size=3000).astype(np.float32), rng.normal(size=3000).astype(np.float32))

    assert measure.verification_accuracy(perfect) == 1
    assert measure.verification_accuracy(blind) == pytest.approx(0.5, abs=0.03)


def test_too_few_pairs_are_told_with_their_number(data: AlignedSet) -> None:
    vectors = np.eye(6, dtype=np.float32)

    with pytest.raises(DataError, match="3 genuine and 12 impostor pairs are too few"):
        measure.scores_of(vectors, np.array([0, 0, 1, 1, 2, 2], np.int32))


def test_people_held_out_of_training_are_those_that_are_measured_on(data: AlignedSet, trained: Trained) -> None:
    held = data.people[:7]

    there = material(data, input_spec(trained), "arcface", held)

    np.testing.assert_array_equal(there.crops, data.crops[: 7 * PHOTOS])
    assert len(there.calibration) == (PEOPLE - 7) * PHOTOS
    assert there.description == "21 photos of 7 people of made up, held out from training"


@pytest.mark.parametrize("held", [(), ("p00", "somebody else")])
def test_without_them_no_person_is_both_measured_on_and_calibrated_with(
    data: AlignedSet, trained: Trained, held: tuple[str, ...]
) -> None:
    there = material(data, input_spec(trained), "arcface", held)
    measured = {crop.tobytes() for crop in there.crops}

    assert len(there.crops) + len(there.calibration) == len(data)
    assert len(there.calibration) > 0
    assert not measured & {crop.tobytes() for crop in there.calibration}


def test_crops_of_another_size_are_brought_to_the_networks(data: AlignedSet) -> None:
    there = material(data, InputSpec(width=16, height=16, channels="rgb"), "arcface")

    assert there.crops.shape[1:] == there.calibration.shape[1:] == (16, 16, 3)


def test_crops_of_another_template_are_refused(data: AlignedSet, trained: Trained) -> None:
    with pytest.raises(ExportError, match="made up is aligned to arcface, the network to sphereface"):
        material(data, input_spec(trained), "sphereface")


def test_without_crops_a_bundle_is_made_but_no_variant(trained: Trained, tmp_path: Path) -> None:
    (line, _) = _export(trained, tmp_path / "a", None)
    manifest = bundles.load(tmp_path / "a" / "unit").manifest

    assert re.fullmatch(r"unit: lowest cosine to torch (1\.00000|0\.99999)\d\d, in batches of 1, 2 and 7", line)
    assert set(manifest.metrics) == {"parity_cosine", "bytes"}
    with pytest.raises(ExportError, match="labelled crops"):
        _export(trained, tmp_path / "b", None, kinds=("fp16",))
    assert not (tmp_path / "b").exists()


def test_the_manifest_says_where_the_network_comes_from(trained: Trained, tmp_path: Path) -> None:
    _export(trained, tmp_path, None, mirror=True)
    manifest = bundles.load(tmp_path / "unit").manifest

    assert manifest.mirror
    assert manifest.architecture == "mobilenet width=0.25"
    assert manifest.template == "arcface"
    assert (manifest.input.mean, manifest.input.std) == ((127.5,) * 3, (128.0,) * 3)
    assert manifest.provenance.origin == "trained with facesphere-train, run unit, step 7"
    assert manifest.provenance.source == "step-00000007.pt"


def test_a_name_that_is_taken_is_refused_before_any_work(trained: Trained, data: AlignedSet, tmp_path: Path) -> None:
    (tmp_path / "unit-int8").mkdir()

    with pytest.raises(ExportError, match="unit-int8 is there already"):
        _export(trained, tmp_path, data, kinds=("int8",))
    assert not (tmp_path / "unit").exists()


@pytest.mark.parametrize(
    ("size", "template"), [((112, 112), "arcface"), ((96, 112), "sphereface"), ((48, 56), "sphereface")]
)
def test_the_template_follows_from_the_shape(size: tuple[int, int], template: str) -> None:
    assert template_of(InputSpec(width=size[0], height=size[1], channels="rgb")) == template


def test_a_shape_of_no_template_is_refused() -> None:
    with pytest.raises(ExportError, match="no alignment template has crops of 100 x 112"):
        template_of(InputSpec(width=100, height=112, channels="rgb"))


def test_a_network_of_grey_images_has_no_bundle(trained: Trained) -> None:
    grey = trained.config.model_copy(update={"input": trained.config.input.model_copy(update={"channels": "gray"})})

    with pytest.raises(ExportError, match="grey"):
        input_spec(replace(trained, config=grey))


def _state(run: Path) -> dict[str, Any]:
    state = files.read(run / "checkpoints" / files.name(7))
    return {key: value for key, value in state.items() if key != "format"}


def test_the_best_checkpoint_of_a_run_is_taken_and_its_averaged_weights(run: Path, tmp_path: Path) -> None:
    state = _state(run)
    average = {name: value + 1 for name, value in state["model"].items()}
    files.write(tmp_path / "best.pt", {**state, "step": 3, "average": {"step": 3, "state": average}})
    files.write(tmp_path / "checkpoints" / files.name(9), state)

    found = load_trained(tmp_path)

    assert (found.step, found.source) == (3, "best.pt")
    assert not found.module.training
    for name, value in found.module.state_dict().items():
        assert torch.equal(value, average[name]), name


def test_template_and_people_held_out_are_read_from_the_runs_own_record(run: Path, tmp_path: Path) -> None:
    files.write(tmp_path / "checkpoints" / files.name(7), _state(run))
    record = tmp_path / "run.json"
    record.write_text('{"data": {"template": "arcface"}, "held_out": ["a", "b"]}')

    assert (load_trained(tmp_path).template, load_trained(tmp_path).held_out) == ("arcface", ("a", "b"))
    record.write_text('{"data": ')
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        load_trained(tmp_path)


def _damage(change: str, state: dict[str, Any]) -> dict[str, Any]:
    config, weights = state["config"], state["model"]
    backbone = {**config["backbone"], "name": "no-such-network"}
    first = next(iter(weights))
    return {
        "no config": {"model": weights},
        "no weights": {"config": config},
        "unknown backbone": {**state, "config": {**config, "backbone": backbone}},
        "unknown key": {**state, "config": {**config, "surprise": 1}},
        "other dimension": {**state, "config": {**config, "dimension": 8}},
        "a weight missing": {**state, "model": {k: v for k, v in weights.items() if k != first}},
        "a number for weights": {**state, "model": 3},
    }[change]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("no config", "there is no 'config'"),
        ("no weights", "there is no 'model'"),
        ("unknown backbone", "no-such-network"),
        ("unknown key", "surprise"),
        ("other dimension", "size mismatch"),
        ("a weight missing", "Missing key"),
        ("a number for weights", "state_dict"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line_with_the_file(
    run: Path, tmp_path: Path, change: str, says: str
) -> None:
    path = tmp_path / "x.pt"
    files.write(path, _damage(change, _state(run)))

    with pytest.raises(CheckpointError, match=says) as caught:
        load_trained(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("warm", [True, False], ids=["trained", "fresh"])
def test_the_weights_of_a_bundle_begin_another_training(trained: Trained, tmp_path: Path, warm: bool) -> None:
    network = trained.module if warm else build("mobilenet", DIMENSION, (SIZE, SIZE), width=0.25)
    path = tmp_path / "model.onnx"
    path.write_bytes(export_onnx(network, (SIZE, SIZE)))
    other = build("mobilenet", DIMENSION, (SIZE, SIZE), width=0.25)

    load_bundle_weights(other, path)

    for name, value in other.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, network.state_dict()[name]), name


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _error_line(result: Result) -> str:
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_checkpoint_that_is_cut_off_or_no_checkpoint_is_one_line(run: Path, tmp_path: Path, keep: float) -> None:
    whole = (run / "checkpoints" / files.name(7)).read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(b"no checkpoint at all" if keep == -1 else whole[: int(keep if keep > 1 else keep * len(whole))])

    line = _error_line(_run("export", "--checkpoint", path, "--out", tmp_path / "out", "--id", "x"))

    assert line == f"Error: {path} is damaged or no checkpoint of this program"
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.pt"

    assert str(path) in _error_line(_run("export", "--checkpoint", path, "--out", tmp_path / "out", "--id", "x"))
    assert "no checkpoint" in _error_line(
        _run("export", "--checkpoint", tmp_path, "--out", tmp_path / "out", "--id", "x")
    )


def test_a_variant_without_data_is_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    line = _error_line(_run("export", "--checkpoint", run, "--out", tmp_path / "out", "--id", "x", "--int8"))

    assert "--calibration-data" in line


def test_the_command_writes_and_registers_what_passes_and_tells_what_does_not(
    run: Path, data: AlignedSet, tmp_path: Path
) -> None:
    data.save(tmp_path / "aligned")
    result = _run(
        "export", "--checkpoint", run, "--out", tmp_path / "out", "--id", "x", "--fp16", "--int8", "--mirror",
        "--calibration-data", tmp_path / "aligned", "--registry", tmp_path / "models", "--min-cosine", 0.99999,
        "--max-accuracy-drop", 1, "--max-tar-drop", 1, "--licence", "MIT", "--commercial-use",
    )  # fmt: skip

    assert "x-int8 was not kept: mean cosine to float is" in _error_line(result)
    assert {manifest.id for manifest in Registry(tmp_path / "models").list()} == {"x", "x-fp16"}
    found = Registry(tmp_path / "models").resolve("embedder", "x-fp16")
    assert found.manifest.mirror
    assert found.manifest.licence == Licence(spdx="MIT", commercial_use=True)
    assert (found.card() or "").startswith("# x-fp16")
    assert "x: added to" in result.stdout


@pytest.mark.parametrize(
    "backbone",
    ["mobilefacenet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sphereface", "iresnet"))],
)
def test_real_backbones_are_exported_and_agree(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    size = (112, 96) if backbone == "sphereface" else (112, 112)
    config = parse_config(
        {**CONFIG, "backbone": {"name": backbone}, "input": {"height": size[0], "width": size[1]}, "dimension": 32}
    )
    trained = Trained(build(backbone, 32, size).eval(), config, 0, "none", "0" * 64)

    (line, _) = _export(trained, tmp_path, None)

    assert re.search(r"lowest cosine to torch (1\.0000|0\.9999)", line)
