"""A thinner copy of a teacher to begin with: far better than random weights, and made in minutes without training.

The network is a chain of convolutions, each with batch norm and an activation. Layer by layer, from the input on:

1.  Channels to keep are chosen by QR decomposition with column pivoting of what the next mixing layer reads, each
    channel weighted by how strongly it is read: those kept span best what is left out.
2.  The layer's weights are fitted by ridge regression so that the thin network, with all the errors made before, gives
    the teacher's values at the kept channels (as in channel pruning by reconstruction: He et al., ICCV 2017).
3.  The head is fitted by ridge regression to the teacher's embeddings.

The teacher's body may be run on smaller crops than it was made for; its embeddings are those of its own size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle import Bundle
from training.backbones.activation import PReLU
from training.backbones.mobilenet import MobileNet
from training.backbones.weights import load_bundle_weights
from training.config import ConfigError, Input, Thin, TrainConfig
from training.data.aligned import AlignedSet
from training.data.augment import resize
from training.teaching.targets import Teacher, Vectors, check_template
from training.trainer.validate import normalised

Indices = NDArray[np.int64]

# Positions sampled from the feature maps, over all photos: enough for a few thousand unknowns a channel.
_TO_CHOOSE = 12_000
_TO_FIT = 20_000
_BATCH = 64


@dataclass(frozen=True, slots=True)
class _Unit:
    """A convolution that mixes pixels or channels, its batch norm and its activation."""

    mix: nn.Conv2d
    norm: nn.BatchNorm2d
    slope: PReLU

    def __call__(self, maps: Tensor) -> Tensor:
        return cast(Tensor, self.slope(self.norm(self.mix(maps))))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Feature maps of the same photos in both networks, and the teacher's channels that the thin one has."""

    teacher: Tensor
    student: Tensor
    kept: Tensor


@torch.no_grad()
def thin(
    student: nn.Module,
    bundle: Bundle,
    config: TrainConfig,
    settings: Thin,
    data: AlignedSet,
    threads: int,
    targets: Vectors | None = None,
) -> None:
    """Fill a thin MobileNet with what a bundle's network knows.

    Args:
        student: of the width, input size and head that the configuration asks for; the head must be "projected".
        bundle: the teacher, a MobileNet of full width.
        config: for the input and the seed.
        settings: how many photos to fit on.
        data: the training set.
        threads: of the teacher.
        targets: this teacher's unit vectors (N, D) of all of `data`, if they are known already.

    Raises:
        ConfigError: networks that cannot be thinned into one another, or crops of another template.
    """
    if not isinstance(student, MobileNet) or student.head != "projected":
        raise ConfigError("start.thin needs the backbone mobilenet with head: projected")
    check_template(Teacher(bundle.folder), data)
    teacher = _teacher_body(bundle, config)
    generator = np.random.default_rng([config.seed, 3])
    order = generator.permutation(len(data.labels))
    torch.manual_seed(config.seed)
    student.eval()
    _thin_body(student, teacher, _inputs(data, order[: settings.photos], config.input))
    chosen = order[: settings.head_photos]
    known = targets[chosen] if targets is not None else _taught(bundle, data, chosen, threads)
    _fit_head(student, config, settings, data, chosen, known)
    student.train()


def _teacher_body(bundle: Bundle, config: TrainConfig) -> MobileNet:
    spec = bundle.manifest.input
    module = MobileNet(bundle.manifest.dimension or 0, (spec.height, spec.width), 3, head="fc")
    load_bundle_weights(module, bundle.model_path)
    module.eval()
    _check_normalisation(module, bundle, config)
    return module


def _check_normalisation(module: MobileNet, bundle: Bundle, config: TrainConfig) -> None:
    """Graphs may normalise inside; then the configuration must do the same outside."""
    spec = bundle.manifest.input
    crops = list(np.random.default_rng(0).integers(0, 256, (2, spec.height, spec.width, 3), dtype=np.uint8))
    theirs = Teacher(bundle.folder).embed(crops, mirror=False)
    ours = nn.functional.normalize(module(_fed(crops, config.input))).numpy()
    if (ours * theirs).sum(axis=1).min() < 0.999:
        raise ConfigError(
            f"{bundle.manifest.id} does not normalise its input by mean {config.input.mean:g} and "
            f"std {config.input.std:g} in the order {config.input.channels}"
        )


def _inputs(data: AlignedSet, chosen: Indices, spec: Input) -> Tensor:
    return torch.cat(list(_batches(data, chosen, spec)))


def _batches(data: AlignedSet, chosen: Indices, spec: Input) -> Iterator[Tensor]:
    for start in range(0, len(chosen), _BATCH):
        crops = [resize(np.asarray(data.crops[i]), (spec.height, spec.width)) for i in chosen[start : start + _BATCH]]
        yield _fed(crops, spec)


def _fed(crops: list[NDArray[np.uint8]], spec: Input) -> Tensor:
    """RGB crops as the network is fed them."""
    stacked = np.stack(crops)
    if spec.channels == "bgr":
        stacked = stacked[..., ::-1].copy()
    return normalised(torch.from_numpy(stacked).permute(0, 3, 1, 2), spec, torch.device("cpu"))


def _thin_body(student: MobileNet, teacher: MobileNet, images: Tensor) -> None:
    state = _Pair(images, images, torch.arange(images.shape[1]))
    theirs = _units(teacher)
    for place, (small, large) in enumerate(zip(_units(student), theirs, strict=True)):
        if large.mix.groups > 1:
            state = _copy_depthwise(small, large, state)
        else:
            strength, read = _reader(teacher, theirs, place)
            state = _fit_mixing(small, large, place == 0, strength, read, state)


def _units(network: MobileNet) -> list[_Unit]:
    return [_Unit(*cast(nn.Sequential, unit)) for unit in network.body]


def _copy_depthwise(small: _Unit, large: _Unit, state: _Pair) -> _Pair:
    small.mix.weight.copy_(large.mix.weight[state.kept])
    _copy_rest(small, large, state.kept)
    return _Pair(large(state.teacher), small(state.student), state.kept)


def _copy_rest(small: _Unit, large: _Unit, kept: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(small.norm, name).copy_(getattr(large.norm, name)[kept])
    small.slope.weight.copy_(large.slope.weight[kept])


def _fit_mixing(
    small: _Unit, large: _Unit, first: bool, strength: Tensor, read: Callable[[Tensor], Tensor], state: _Pair
) -> _Pair:
    before: Tensor = large.mix(state.teacher)
    after: Tensor = large.slope(large.norm(before))
    kept = _choose(read(after), strength, small.norm.num_features)
    _copy_rest(small, large, kept)
    if first:  # both read the photo itself: nothing to make up for
        small.mix.weight.copy_(large.mix.weight[kept])
    else:
        rows = _positions(before, _TO_FIT)
        weight, bias = _ridge(_at(state.student, rows), _at(before[:, kept], rows), 1e-4)
        small.mix.weight.copy_(weight[:, :, None, None])
        assert small.norm.running_mean is not None
        small.norm.running_mean.sub_(bias)
    return _Pair(after, small(state.student), kept)


def _reader(teacher: MobileNet, units: list[_Unit], place: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """How strongly each channel is read by the next mixing layer, and what lies between."""
    if place + 1 < len(units):
        return torch.linalg.vector_norm(units[place + 2].mix.weight.flatten(1), dim=0), units[place + 1]
    weight = teacher.fc.weight.view(len(teacher.fc.weight), units[place].norm.num_features, -1)
    return torch.linalg.vector_norm(weight, dim=(0, 2)), teacher.norm


def _choose(read: Tensor, strength: Tensor, count: int) -> Tensor:
    """Indices, sorted, of the channels that best stand for all."""
    if count >= read.shape[1]:
        return torch.arange(read.shape[1])
    values = _at(read, _positions(read, _TO_CHOOSE))
    weighted = (values - values.mean(dim=0)) * strength
    _, _, order = scipy.linalg.qr(weighted.double().numpy(), mode="economic", pivoting=True)
    return torch.from_numpy(np.sort(order[:count]).astype(np.int64))


def _positions(maps: Tensor, total: int) -> Tensor:
    height, width = maps.shape[2:]
    each = max(2, min(height * width, total // len(maps)))
    return torch.randint(height * width, (each,))


def _at(maps: Tensor, rows: Tensor) -> Tensor:
    """Values (photos * positions, channels) of feature maps."""
    return maps.flatten(2)[:, :, rows].permute(0, 2, 1).reshape(-1, maps.shape[1])


def _ridge(inputs: Tensor, outputs: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (out, in) and bias (out,) with outputs ~ inputs W^T + b; the penalty is relative to the mean variance."""
    x, y = inputs.double(), outputs.double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x = x - x_mean
    gram = x.T @ x
    gram += penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, x.T @ (y - y_mean))
    return solution.T.float(), (y_mean - x_mean @ solution).float()


def _taught(bundle: Bundle, data: AlignedSet, chosen: Indices, threads: int) -> Vectors:
    teacher = Teacher(bundle.folder, threads)
    crops = [np.ascontiguousarray(resize(np.asarray(data.crops[i]), teacher.size)) for i in chosen]
    parts = [teacher.embed(crops[start : start + _BATCH], mirror=True) for start in range(0, len(crops), _BATCH)]
    return np.concatenate(parts)


def _fit_head(
    student: MobileNet, config: TrainConfig, settings: Thin, data: AlignedSet, chosen: Indices, targets: Vectors
) -> None:
    features = torch.cat([student.body(batch) for batch in _batches(data, chosen, config.input)])
    _whiten(student.norm, features)
    _project(student, features)
    flat = torch.cat([student.flat(part) for part in torch.split(features, _BATCH)])
    # Unit vectors times sqrt(D) have values near 1, which is what batch norm behind them gives.
    weight, bias = _ridge_wide(flat, torch.from_numpy(np.array(targets)) * config.dimension**0.5, settings.ridge)
    student.fc.weight.copy_(weight)
    student.fc.bias.copy_(bias)


def _ridge_wide(inputs: Tensor, outputs: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """As _ridge, by way of the smaller of the two Gram matrices."""
    if inputs.shape[1] <= len(inputs):
        return _ridge(inputs, outputs, penalty)
    x, y = inputs.double(), outputs.double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x = x - x_mean
    gram = x @ x.T
    scale = gram.diagonal().sum() / inputs.shape[1]
    dual = torch.linalg.solve(gram + penalty * scale * torch.eye(len(gram), dtype=gram.dtype), y - y_mean)
    solution = x.T @ dual
    return solution.T.float(), (y_mean - x_mean @ solution).float()


def _whiten(norm: nn.BatchNorm2d, features: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(features.mean(dim=(0, 2, 3)))
    norm.running_var.copy_(features.var(dim=(0, 2, 3)))
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


def _project(student: MobileNet, features: Tensor) -> None:
    """The projection starts as principal components, each of unit variance."""
    rows = _at(student.norm(features[::4]), _positions(features, 40 * len(features)))
    _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    rank = student.project.out_channels
    student.project.weight.copy_(vectors[:, -rank:].T[:, :, None, None])
    _whiten(student.project_norm, student.project(student.norm(features[::4])))
