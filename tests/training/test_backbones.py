"""The networks: their definitions, their fresh weights, and what every one of them must be able to do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.backbones import BACKBONES, build
from training.backbones.activation import PReLU
from training.backbones.cost import cost, table

ROOT = Path(__file__).resolve().parents[2]

# Every kind of network, as small as it goes: name, (height, width), channels, parameters.
SMALL: list[tuple[str, tuple[int, int], int, dict[str, Any]]] = [
    ("sphereface", (32, 24), 3, {"depth": 4, "width": 0.125}),
    ("sphereface", (33, 27), 1, {"depth": 20, "width": 0.125, "batch_norm": True, "dropout": 0.2}),
    ("mobilenet", (32, 32), 3, {"width": 0.125, "dropout": 0.2}),
    ("mobilenet", (35, 19), 3, {"width": 0.125, "head": "gdc"}),
    ("mobilenet", (32, 24), 1, {"width": 0.25, "head": "projected", "rank": 5}),
    ("mobilefacenet", (32, 24), 3, {"width": 0.25}),
    ("iresnet", (32, 24), 3, {"depth": 18, "width": 0.125, "dropout": 0.4}),
    ("lnet", (12, 10), 1, {}),
    ("mnist", (28, 28), 1, {"width": 0.125}),
    ("mnist", (32, 30), 3, {"width": 0.125, "convolutions": 4}),
]
NAMES = ["-".join(map(str, (name, *params.values()))) for name, _, _, params in SMALL]
each_small = pytest.mark.parametrize("case", SMALL, ids=NAMES)

Case = tuple[str, tuple[int, int], int, dict[str, Any]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _built(case: Case, dimension: int = 6, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    name, size, channels, params = case
    torch.manual_seed(seed)
    network = build(name, dimension, size, channels, **params)
    return network, torch.randn(3, channels, *size)


def _shapes_only(name: str, dimension: int, size: tuple[int, int], channels: int = 3, **params: Any) -> nn.Module:
    with torch.device("meta"):
        return build(name, dimension, size, channels, **params)


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def test_every_network_has_a_small_case_here() -> None:
    assert {name for name, *_ in SMALL} == set(BACKBONES) - {"timm"}


@each_small
def test_images_become_vectors_of_the_dimension(case: Case) -> None:
    network, images = _built(case)

    features = network(images)

    assert features.shape == (3, 6)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@each_small
def test_the_gradient_reaches_every_parameter(case: Case) -> None:
    network, images = _built(case)
    network.eval()  # in training a bias before batch norm has none

    network(images).square().sum().backward()

    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@each_small
def test_the_same_seed_gives_the_same_network_and_another_seed_another(case: Case) -> None:
    first, again, other = (_built(case, seed=seed)[0].state_dict() for seed in (1, 1, 2))

    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@each_small
def test_half_precision_and_channels_last_give_the_same_vectors_nearly(case: Case) -> None:
    network, images = _built(case)
    network.eval()
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        last = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)

    torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-5)
    scale = expected.abs().max()
    torch.testing.assert_close(half.float() / scale, expected / scale, rtol=0, atol=0.1)


@pytest.mark.parametrize("case", [SMALL[0], SMALL[4], SMALL[6]], ids=lambda case: case[0])
def test_training_in_half_precision_and_channels_last_lowers_the_loss(case: Case) -> None:
    network, images = _built(case)
    network.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    target = torch.randn(3, 6)
    optimiser = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), 3e-3)

    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(images)
        loss = nn.functional.mse_loss(features.float(), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert min(losses[3:]) < losses[0]


@pytest.mark.parametrize("depth", [4, 10, 20, 36, 64])
def test_sphereface_has_as_many_convolutions_as_its_name_says(depth: int) -> None:
    network = _shapes_only("sphereface", 512, (112, 96), depth=depth)
    convolutions = _convolutions(network)

    assert len(convolutions) == depth
    assert sum(isinstance(layer, PReLU) for layer in network.modules()) == depth
    assert [conv.out_channels for conv in convolutions if conv.stride == (2, 2)] == [64, 128, 256, 512]
    assert all(conv.kernel_size == (3, 3) for conv in convolutions)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert network.get_parameter("fc.weight").shape == (512, 512 * 7 * 6)


@pytest.mark.parametrize(("depth", "units"), [(10, [0, 1, 2, 0]), (20, [1, 2, 4, 1]), (64, [3, 8, 16, 3])])
def test_sphereface_has_the_units_of_the_paper_in_each_stage(depth: int, units: list[int]) -> None:
    convolutions = _convolutions(_shapes_only("sphereface", 512, (112, 96), depth=depth))

    in_stage = [sum(conv.out_channels == channels for conv in convolutions) for channels in (64, 128, 256, 512)]

    assert in_stage == [1 + 2 * count for count in units]


def test_sphereface_begins_with_the_weights_of_the_paper() -> None:
    torch.manual_seed(0)
    network = build("sphereface", 64, (32, 32), depth=20, width=0.5)

    for conv in _convolutions(network):
        fan_in, fan_out = 9 * conv.in_channels, 9 * conv.out_channels
        if conv.stride == (2, 2):
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert conv.bias is not None
            assert not conv.bias.any()
            assert conv.weight.abs().max() <= bound
            assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        else:
            assert conv.bias is None
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert all((layer.weight == 0.25).all() for layer in network.modules() if isinstance(layer, PReLU))


def test_a_fresh_sphereface_64_neither_fades_nor_explodes() -> None:
    torch.manual_seed(0)
    network = build("sphereface", 16, (32, 32), depth=64, width=0.25)

    with torch.no_grad():
        features = network(torch.randn(8, 3, 32, 32))

    assert 1e-3 < features.std() < 10


def test_sphereface_with_batch_norm_has_one_behind_every_convolution() -> None:
    network = _shapes_only("sphereface", 8, (32, 32), depth=20, batch_norm=True)

    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 20
    assert all(conv.bias is None for conv in _convolutions(network))


@pytest.mark.parametrize(
    ("name", "params", "dimension", "millions"),
    [
        ("iresnet", {"depth": 18}, 512, 24.03),
        ("iresnet", {"depth": 50}, 512, 43.59),
        ("iresnet", {"depth": 100}, 512, 65.16),
        ("mobilefacenet", {}, 128, 1.00),
        ("mobilenet", {}, 128, 9.64),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    name: str, params: dict[str, Any], dimension: int, millions: float
) -> None:
    network = _shapes_only(name, dimension, (112, 112), **params)

    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("depth", "units"), [(18, 8), (50, 24), (100, 49)])
def test_iresnet_has_two_convolutions_a_unit_its_stem_and_four_shortcuts(depth: int, units: int) -> None:
    network = _shapes_only("iresnet", 512, (112, 112), depth=depth)

    assert len(_convolutions(network)) == 2 * units + 1 + 4
    assert not network.get_parameter("fc_norm.weight").requires_grad


def test_mobilefacenet_ends_in_a_depthwise_convolution_over_the_whole_map() -> None:
    network = _shapes_only("mobilefacenet", 128, (112, 96))
    *_, whole, last = _convolutions(network)

    assert (whole.kernel_size, whole.groups) == ((7, 6), 512)
    assert (last.in_channels, last.out_channels) == (512, 128)
    assert cost(_shapes_only("mobilefacenet", 128, (112, 112)), (112, 112)).macs / 1e6 == pytest.approx(221, abs=1)


def test_lnet_is_the_network_of_the_center_loss_figures() -> None:
    convolutions = _convolutions(_shapes_only("lnet", 2, (28, 28), 1))

    assert [conv.out_channels for conv in convolutions] == [32, 32, 64, 64, 128, 128]
    assert all(conv.kernel_size == (5, 5) for conv in convolutions)


@pytest.mark.parametrize(("convolutions", "total"), [(3, 10), (4, 13)])
def test_the_mnist_network_has_three_stages_behind_its_first_convolution(convolutions: int, total: int) -> None:
    layers = _convolutions(_shapes_only("mnist", 512, (28, 28), 1, convolutions=convolutions))

    assert len(layers) == total
    assert [layer.out_channels for layer in layers[1::convolutions]] == [64, 128, 256]


def test_mobilenet_is_a_chain_of_units_whose_channels_are_multiples_of_eight() -> None:
    network = build("mobilenet", 16, (32, 32), width=0.3)
    units = list(network.get_submodule("body").children())

    assert len(units) == 27
    for conv, norm, activation in (unit.children() for unit in units):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(activation, PReLU)
        assert conv.out_channels % 8 == 0


def test_a_head_that_projects_holds_far_fewer_weights() -> None:
    full = _shapes_only("mobilenet", 128, (112, 112))
    projected = _shapes_only("mobilenet", 128, (112, 112), head="projected", rank=32)

    assert full.get_parameter("fc.weight").shape == (128, 1024 * 49)
    assert projected.get_parameter("fc.weight").shape == (128, 32 * 49)


def test_cost_counts_one_multiplication_a_weight_and_position() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(120, 7))

    spent = cost(network, (4, 5), channels=4)

    assert spent.macs == 6 * 4 * 5 * (2 * 9) + 120 * 7
    assert spent.parameters == 6 * 2 * 9 + 6 + 12 + 120 * 7 + 7


def test_the_table_of_the_documentation_is_the_one_that_is_measured() -> None:
    text = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")

    assert table() in text


def test_the_documentation_names_every_parameter() -> None:
    text = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    for name in BACKBONES:
        with pytest.raises(ValueError, match=f"{name} has no parameter 'x'; it has ") as error:
            build(name, 8, (32, 32), x=1)
        listed = str(error.value).rsplit("it has ", 1)[1]
        for parameter in [] if listed == "none" else listed.split(", "):
            assert f"`{parameter}`" in text


@pytest.mark.parametrize(
    ("name", "size", "params", "line"),
    [
        ("resnet", (32, 32), {}, "there is no backbone 'resnet'; there are iresnet, lnet, mnist, "),
        ("lnet", (28, 28), {"depth": 3}, "lnet has no parameter 'depth'; it has none"),
        ("mobilenet", (32, 32), {"wdth": 1}, "mobilenet has no parameter 'wdth'; it has width, head, rank, dropout"),
        ("sphereface", (32, 32), {"depth": 12}, "depth must be one of 4, 10, 20, 36, 64, not 12"),
        ("sphereface", (32, 32), {"batch_norm": "no"}, "batch_norm must be true or false, not 'no'"),
        ("sphereface", (7, 32), {}, "input of 32 x 7 is too small: 8 pixels a side are the least"),
        ("iresnet", (32, 32), {"depth": "50"}, "depth must be one of 18, 50, 100, not '50'"),
        ("iresnet", (32, 32), {"dropout": 1}, "dropout must be at least 0 and below 1, not 1"),
        ("mobilefacenet", (32, 32), {"width": 0}, "width must be above 0 and at most 8, not 0"),
        ("mobilefacenet", (32, 32), {"width": "wide"}, "width must be a number, not 'wide'"),
        ("mobilenet", (32, 32), {"head": "pool"}, "head must be one of fc, gdc, projected, not 'pool'"),
        ("mobilenet", (32, 32), {"head": "gdc", "rank": 3}, "rank is for the head projected, not for gdc"),
        ("mobilenet", (32, 32), {"head": "projected", "rank": 0}, "rank must be a whole number of at least 1, not 0"),
        ("mnist", (32, 32), {"convolutions": 2.5}, "convolutions must be a whole number of at least 1, not 2.5"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    name: str, size: tuple[int, int], params: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        build(name, 8, size, **params)


@pytest.mark.parametrize(("dimension", "channels", "word"), [(0, 3, "dimension"), (8, 0, "channels")])
def test_a_dimension_or_channels_of_nothing_are_refused(dimension: int, channels: int, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} must be a whole number of at least 1, not 0"):
        build("lnet", dimension, (28, 28), channels)


def test_timm_says_what_to_install_or_gives_one_of_its_networks() -> None:
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="backbone timm needs a package more: pip install timm"):
            build("timm", 8, (64, 64))
    else:
        assert build("timm", 8, (64, 64)).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 8)
        with pytest.raises(ValueError, match="has no model 'nothing'"):
            build("timm", 8, (64, 64), model="nothing")
