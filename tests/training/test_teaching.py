"""A teacher: its losses, the cache of what it says, views, and a student that begins as a thinner copy of it."""

import fcntl
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crops import people_set
from torch.nn import functional as F

from models.bundle import Bundle, InputSpec
from training.backbones import build
from training.backbones.mobilenet import MobileNet
from training.config import ConfigError, TrainConfig, parse_config
from training.data.aligned import AlignedSet
from training.data.loader import load, view
from training.data.samplers import ShuffledBatches
from training.export.bundle import make_manifest, write_bundle
from training.export.onnx import export_onnx
from training.teaching.distil import cosine_loss, relation_loss
from training.teaching.targets import Teacher, Vectors, teacher_targets
from training.teaching.thin import thin
from training.trainer.run import train

SIZE, DIMENSION, PEOPLE, PHOTOS = 32, 16, 10, 4


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def crops() -> AlignedSet:
    plain = people_set(people=PEOPLE, images=PHOTOS, size=SIZE)
    return replace(plain, template="arcface").subset(np.arange(len(plain)))


@pytest.fixture(scope="module")
def bundle(crops: AlignedSet, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A MobileNet that takes BGR, with batch norm that has seen the photos."""
    torch.manual_seed(0)
    network = build("mobilenet", DIMENSION, (SIZE, SIZE))
    images = torch.from_numpy(np.array(crops.crops)[..., ::-1].copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(30):
            network((images.float() - 127.5) / 128)
    model = export_onnx(network.eval(), (SIZE, SIZE))
    manifest = make_manifest(
        model,
        id="teacher",
        input=InputSpec(width=SIZE, height=SIZE, channels="bgr", mean=(127.5,) * 3, std=(128.0,) * 3),
        template="arcface",
        dimension=DIMENSION,
        licence={"spdx": "Apache-2.0", "commercial_use": True},
        provenance={"origin": "a test"},
    )
    return write_bundle(tmp_path_factory.mktemp("bundles") / "teacher", model, manifest)


def _config(bundle: Bundle, data: str = "crops", **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "name": "student",
        "data": {"train": data, "held_out": 0.4},
        "input": {"height": SIZE, "width": SIZE, "channels": "bgr"},
        "dimension": DIMENSION,
        "backbone": {"name": "mobilenet", "params": {"width": 0.25, "head": "projected", "rank": 32}},
        "distil": {"bundle": str(bundle.folder), "relation": 1.0},
        "augment": {"flip": 0.5, "rotate": 5, "brightness": 0.2, "occlude": 0.5},
        "batch": 8,
        "steps": 4,
        "compile": "off",
        "device": "cpu",
        "workers": 0,
    }
    return parse_config({**settings, **changes})


def _views(bundle: Bundle, views: int) -> dict[str, Any]:
    return {"distil": {"bundle": str(bundle.folder), "views": views}}


def _unit(rows: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=1)


def test_the_cosine_loss_is_one_minus_the_mean_cosine() -> None:
    features, targets = 3 * _unit(5, 4, 0), _unit(5, 4, 1)
    features.requires_grad_()
    cosines = [
        float(f @ t) / (float(f.norm()) * float(t.norm())) for f, t in zip(features.detach(), targets, strict=True)
    ]

    assert cosine_loss(features, targets).item() == pytest.approx(1 - sum(cosines) / 5, abs=1e-12)
    assert cosine_loss(7 * targets, targets).item() == pytest.approx(0, abs=1e-12)
    torch.autograd.gradcheck(lambda x: cosine_loss(x, targets), features)


def test_the_relation_loss_compares_the_similarities_of_all_pairs_also_across_dimensions() -> None:
    features, targets = _unit(5, 3, 0), _unit(5, 7, 1)
    squares = [
        (float(features[i] @ features[j]) - float(targets[i] @ targets[j])) ** 2 for i in range(5) for j in range(5)
    ]

    assert relation_loss(2 * features, targets).item() == pytest.approx(sum(squares) / 25, abs=1e-12)
    turned, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))
    assert relation_loss(targets @ turned, targets).item() == pytest.approx(0, abs=1e-12)
    torch.autograd.gradcheck(lambda x: relation_loss(x, targets), features.clone().requires_grad_())


def test_the_teacher_is_asked_for_the_clean_photo_and_its_mirror_image(
    bundle: Bundle, crops: AlignedSet, tmp_path: Path
) -> None:
    targets = teacher_targets(crops, _config(bundle), tmp_path / "cache", 2)

    teacher = Teacher(bundle.folder)
    both = [teacher.embed([image], mirror=False)[0] for image in (crops.crops[5], crops.crops[5][:, ::-1].copy())]
    mean = (both[0] + both[1]) / np.linalg.norm(both[0] + both[1])

    assert targets.shape == (1, len(crops), DIMENSION)
    np.testing.assert_allclose(targets[0, 5], mean, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(targets, axis=2), 1, atol=1e-5)


def _targets_and_files(bundle: Bundle, crops: AlignedSet, cache: Path) -> tuple[Vectors, Path, Path]:
    targets = np.array(teacher_targets(crops, _config(bundle), cache, 1))
    (file,), (note,) = cache.glob("*.npy"), cache.glob("*.done")
    return targets, file, note


def test_a_half_filled_cache_is_gone_on_with(bundle: Bundle, crops: AlignedSet, tmp_path: Path) -> None:
    whole, file, note = _targets_and_files(bundle, crops, tmp_path)
    stored = np.load(file, mmap_mode="r+")
    stored[0, 16:] = 0
    stored[0, 3] = 7  # what is there already is not asked for again
    stored.flush()
    note.write_text("16")

    again = teacher_targets(crops, _config(bundle), tmp_path, 1)

    np.testing.assert_allclose(again[0, 16:], whole[0, 16:], atol=1e-5)
    assert (again[0, 3] == 7).all()
    assert note.read_text() == str(len(crops))


@pytest.mark.parametrize("text", ["", "many", "-3", "1000"])
def test_a_cache_whose_note_makes_no_sense_is_made_anew(
    bundle: Bundle, crops: AlignedSet, tmp_path: Path, text: str
) -> None:
    whole, file, note = _targets_and_files(bundle, crops, tmp_path)
    np.save(file, np.zeros_like(whole))
    note.write_text(text)

    np.testing.assert_allclose(teacher_targets(crops, _config(bundle), tmp_path, 1), whole, atol=1e-5)


def test_a_cut_off_cache_is_made_anew(bundle: Bundle, crops: AlignedSet, tmp_path: Path) -> None:
    whole, file, _ = _targets_and_files(bundle, crops, tmp_path)
    file.write_bytes(file.read_bytes()[:300])

    np.testing.assert_allclose(teacher_targets(crops, _config(bundle), tmp_path, 1), whole, atol=1e-5)


def test_a_second_run_waits_until_the_first_has_filled_the_cache(
    bundle: Bundle, crops: AlignedSet, tmp_path: Path
) -> None:
    whole, file, note = _targets_and_files(bundle, crops, tmp_path)
    note.unlink()
    found: list[Vectors] = []
    second = threading.Thread(target=lambda: found.append(teacher_targets(crops, _config(bundle), tmp_path, 1)))
    with file.with_suffix(".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second.start()
        second.join(0.5)
        assert second.is_alive()
        note.write_text(str(len(crops)))  # the first is done
    second.join(30)

    np.testing.assert_array_equal(found[0], whole)


def test_another_seed_or_augmentation_is_another_cache_only_where_there_are_views(
    bundle: Bundle, crops: AlignedSet, tmp_path: Path
) -> None:
    def files() -> int:
        return len(list(tmp_path.glob("*.npy")))

    counts = []
    for changes in ({}, {"seed": 1}, _views(bundle, 1), {**_views(bundle, 1), "seed": 1}, {"augment": {}}):
        teacher_targets(crops, _config(bundle, **changes), tmp_path, 1)
        counts.append(files())
    teacher_targets(crops.subset(np.arange(8)), _config(bundle), tmp_path, 1)

    assert [*counts, files()] == [1, 1, 2, 3, 3, 4]


def test_the_teacher_and_the_student_see_the_same_views(bundle: Bundle, crops: AlignedSet, tmp_path: Path) -> None:
    config = _config(bundle, **_views(bundle, 3))
    targets = teacher_targets(crops, config, tmp_path, 2)
    teacher, sampler = Teacher(bundle.folder), ShuffledBatches(crops.labels, 8, config.seed)
    # 40 photos, 5 batches an epoch; in epoch 4 the second of three views comes again.
    first, again = (
        list(load(crops, sampler, config, targets, 7, 8)),
        list(load(crops, sampler, config, targets, 22, 23)),
    )

    for batch, step in ((first[0], 7), (again[0], 22)):
        assert batch.targets is not None
        for image, target, photo in zip(batch.images, batch.targets, sampler.at(step).photos, strict=True):
            crop = view(crops.crops[photo], (SIZE, SIZE), config.augment, config.seed, int(photo), 1)
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy()[..., ::-1], crop)
            np.testing.assert_allclose(target.numpy(), teacher.embed([crop], mirror=False)[0], atol=1e-5)
    assert targets.shape == (3, len(crops), DIMENSION)


def test_a_teacher_of_another_template_or_a_folder_that_cannot_be_written_is_refused(
    bundle: Bundle, crops: AlignedSet, tmp_path: Path
) -> None:
    other = replace(crops, template="sphereface")
    with pytest.raises(ConfigError, match="template arcface, patterns was cut for sphereface"):
        teacher_targets(other, _config(bundle), tmp_path, 1)
    with pytest.raises(ConfigError, match="template arcface"):
        thin(_student(1.0), bundle, _config(bundle), _thin_settings(), other, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep the teacher's vectors in"):
        teacher_targets(crops, _config(bundle), tmp_path / "file", 1)


def _student(width: float, rank: int = 64) -> MobileNet:
    torch.manual_seed(1)
    network = build("mobilenet", DIMENSION, (SIZE, SIZE), width=width, head="projected", rank=rank)
    assert isinstance(network, MobileNet)
    return network


def _thin_settings() -> Any:
    config = parse_config(
        {
            "name": "x",
            "data": {"train": "x"},
            "backbone": {"name": "mobilenet"},
            "loss": {"name": "softmax"},
            "steps": 1,
            "start": {"bundle": "x", "thin": {"photos": 40, "head_photos": 40, "ridge": 0.01}},
        }
    )
    assert config.start is not None
    return config.start.thin


def _likeness(student: MobileNet, bundle: Bundle, crops: AlignedSet) -> float:
    """Mean cosine to the teacher, about the means of both, since networks of random weights point one way."""
    images = torch.from_numpy(np.array(crops.crops)[..., ::-1].copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours = F.normalize(student.eval()((images.float() - 127.5) / 128)).numpy()
    theirs = Teacher(bundle.folder).embed(list(np.array(crops.crops)), mirror=True)
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    return float((ours * theirs).sum() / np.sqrt((ours**2).sum() * (theirs**2).sum()))


@pytest.mark.slow
def test_a_thinner_copy_says_what_its_teacher_says(bundle: Bundle, crops: AlignedSet) -> None:
    student = _student(0.5)
    before = _likeness(student, bundle, crops)

    thin(student, bundle, _config(bundle), _thin_settings(), crops, 1)

    assert before < 0.5
    assert _likeness(student, bundle, crops) > 0.9


def test_what_cannot_be_thinned_is_said(bundle: Bundle, crops: AlignedSet) -> None:
    with pytest.raises(ConfigError, match="head: projected"):
        thin(build("sphereface", DIMENSION, (SIZE, SIZE), depth=4), bundle, _config(bundle), _thin_settings(), crops, 1)
    wrong = _config(bundle, input={"height": SIZE, "width": SIZE, "channels": "bgr", "mean": 0, "std": 1})
    with pytest.raises(ConfigError, match="does not normalise its input by mean 0"):
        thin(_student(0.5), bundle, wrong, _thin_settings(), crops, 1)


def test_a_student_learns_from_its_teacher_alone(bundle: Bundle, crops: AlignedSet, tmp_path: Path) -> None:
    crops.save(tmp_path / "crops")
    config = _config(
        bundle, str(tmp_path / "crops"), steps=30, log_every=1, optimiser={"name": "adamw", "lr": 0.01}, augment={}
    )
    train(config, tmp_path / "run", threads=1)

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    cosines = [line["cosine"] for line in lines if "cosine" in line]
    assert cosines[-1] < 0.5 * cosines[0]
    assert len(list((tmp_path / "crops.teacher").glob("*.npy"))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distil": {"bundle": "x", "cosine": 0}}, "all weights of distil are 0"),
        ({"distil": {"bundle": "x"}, "sharded": True}, "needs a loss"),
    ],
)
def test_a_teacher_that_teaches_nothing_is_refused(bundle: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(bundle, **changes)
