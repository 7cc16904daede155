"""The losses against their mathematics: definitions in float64, gradients by finite differences, brute-force mining."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.losses import LOSSES, Annealing
from training.losses.margin import chebyshev, psi
from training.losses.triplet import squared_distances

CLASSIFICATION = ("softmax", "l_softmax", "a_softmax", "cosface", "arcface")
MARGINS = range(1, 9)


def _batch(seed: int = 0, n: int = 12, d: int = 5, classes: int = 4, dtype: torch.dtype = torch.float64):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=dtype) * 2
    return features, torch.randint(classes, (n,), generator=generator)


def _loss(name: str, d: int = 5, classes: int = 4, **params: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return LOSSES[name](d, classes, **params).double()


def _psi_by_definition(angle: np.ndarray, m: int) -> np.ndarray:
    k = np.minimum(np.floor(angle * m / np.pi), m - 1)
    return (-1) ** k * np.cos(m * angle) - 2 * k


@pytest.mark.parametrize("m", MARGINS)
def test_psi_is_its_definition_on_a_dense_grid(m: int) -> None:
    angle = np.linspace(0, np.pi, 20_001)

    value = psi(torch.from_numpy(np.cos(angle)), m).numpy()

    np.testing.assert_allclose(value, _psi_by_definition(angle, m), atol=2e-7)


@pytest.mark.parametrize("m", MARGINS)
def test_psi_falls_from_1_to_1_minus_2m(m: int) -> None:
    value = psi(torch.linspace(1, -1, 20_001, dtype=torch.float64), m)

    assert (value.diff() <= 1e-12).all()
    assert value[0] == pytest.approx(1)
    assert value[-1] == pytest.approx(1 - 2 * m)


@pytest.mark.parametrize("m", MARGINS)
def test_psi_is_continuous_at_every_breakpoint(m: int) -> None:
    for k in range(1, m):
        at = math.cos(k * math.pi / m)
        left, right = psi(torch.tensor([at - 1e-9, at + 1e-9], dtype=torch.float64), m)
        assert abs(left - right) < 1e-7


@pytest.mark.parametrize("m", MARGINS)
def test_the_slope_of_psi_is_finite_everywhere_and_m_squared_at_zero_degrees(m: int) -> None:
    cosine = torch.linspace(-1, 1, 4001, dtype=torch.float64, requires_grad=True)

    (slope,) = torch.autograd.grad(psi(cosine, m).sum(), cosine)

    assert torch.isfinite(slope).all()
    assert slope.min() >= -1e-9
    assert slope[-1] == pytest.approx(m * m)


@pytest.mark.parametrize("m", MARGINS)
def test_chebyshev_is_the_cosine_of_the_multiple_angle(m: int) -> None:
    angle = torch.linspace(0, math.pi, 999, dtype=torch.float64)

    torch.testing.assert_close(chebyshev(angle.cos(), m), (m * angle).cos(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 7.5])
def test_l_softmax_is_its_definition(m: int, share: float) -> None:
    features, labels = _batch()
    loss = _loss("l_softmax", margin=m, annealing=Annealing(share, 0, 0, share))

    expected = _by_definition(features, loss.weight, labels, m, share, normalise=False)

    assert loss(features, labels).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 7.5])
def test_a_softmax_is_its_definition(m: int, share: float) -> None:
    features, labels = _batch()
    loss = _loss("a_softmax", margin=m, annealing=Annealing(share, 0, 0, share))

    expected = _by_definition(features, loss.weight, labels, m, share, normalise=True)

    assert loss(features, labels).item() == pytest.approx(expected, rel=1e-9)


def _by_definition(x, w, y, m: int, share: float, normalise: bool) -> float:  # type: ignore[no-untyped-def]
    """The loss written out sample by sample with arc cosines."""
    x, w = x.numpy(), w.detach().numpy()
    total = 0.0
    for i in range(len(x)):
        length = np.linalg.norm(x[i])
        logits = []
        for j in range(len(w)):
            size = 1.0 if normalise else np.linalg.norm(w[j])
            angle = np.arccos(np.dot(w[j], x[i]) / (np.linalg.norm(w[j]) * length))
            value = np.cos(angle)
            if j == y[i]:
                value = (_psi_by_definition(angle, m) + share * np.cos(angle)) / (1 + share)
            logits.append(size * length * value)
        total += np.log(np.exp(np.array(logits) - max(logits)).sum()) + max(logits) - logits[int(y[i])]
    return total / len(x)


def test_cosface_and_arcface_are_their_definitions() -> None:
    features, labels = _batch()
    cosface, arcface = _loss("cosface", scale=8.0, margin=0.2), _loss("arcface", scale=8.0, margin=0.3)
    for loss, shifted in (
        (cosface, lambda t: np.cos(t) - 0.2),
        (arcface, lambda t: np.cos(t + 0.3) if t < np.pi - 0.3 else np.cos(t) - (1 - np.cos(0.3))),
    ):
        cosine = (F.normalize(features) @ F.normalize(loss.weight).T).detach().numpy()
        for i, label in enumerate(labels):
            cosine[i, label] = shifted(np.arccos(cosine[i, label]))
        logits = torch.from_numpy(8 * cosine)

        assert loss(features, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-9)


def test_a_margin_of_1_is_softmax() -> None:
    features, labels = _batch()
    softmax, l_softmax = _loss("softmax"), _loss("l_softmax", margin=1)
    a_softmax = _loss("a_softmax", margin=1)

    torch.testing.assert_close(l_softmax(features, labels), softmax(features, labels))
    unit = F.normalize(a_softmax.weight, dim=1)
    torch.testing.assert_close(a_softmax(features, labels), F.cross_entropy(features @ unit.T, labels))


@pytest.mark.parametrize("name", ["l_softmax", "a_softmax"])
def test_an_endless_lambda_is_a_margin_of_1(name: str) -> None:
    features, labels = _batch()
    annealed = _loss(name, margin=4, annealing=Annealing(1e12, 0, 0, 0))

    torch.testing.assert_close(annealed(features, labels), _loss(name, margin=1)(features, labels))


@pytest.mark.parametrize("name", ["l_softmax", "a_softmax"])
def test_a_larger_margin_never_lowers_the_loss(name: str) -> None:
    features, labels = _batch(n=200)
    losses = [_loss(name, margin=m)(features, labels).item() for m in MARGINS]

    assert losses == sorted(losses)
    assert losses[0] < losses[3]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_gradient_of_a_classification_loss_is_that_of_its_values(name: str) -> None:
    features, labels = _batch(seed=3)
    params = {"scale": 4.0} if name in ("cosface", "arcface") else {}
    loss = _loss(name, **params).eval()

    def value(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(loss.logits(x, w, labels), labels)

    arguments = (features.requires_grad_(), loss.weight.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(value, arguments, atol=1e-6)


@pytest.mark.parametrize("m", MARGINS)
@pytest.mark.parametrize("name", ["l_softmax", "a_softmax"])
def test_the_gradient_is_right_for_every_margin(name: str, m: int) -> None:
    features, labels = _batch(seed=m, n=4)
    loss = _loss(name, margin=m, annealing=Annealing(2, 0, 0, 2)).eval()

    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (features.requires_grad_(),), atol=1e-5)


def test_the_gradient_of_center_is_right() -> None:
    features, labels = _batch()
    loss = _loss("center")
    loss.centers.normal_()

    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (features.requires_grad_(),))


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard", "batch_hard"])
def test_the_gradient_of_triplet_is_right(mining: str) -> None:
    features, labels = _batch(seed=5)
    loss = LOSSES["triplet"](margin=0.5, mining=mining)

    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (features.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_features_of_zero_or_on_the_weight_give_finite_gradients(name: str) -> None:
    loss = LOSSES[name](3, 3)
    features = torch.stack([torch.zeros(3), loss.weight[0].detach() * 5, -loss.weight[1].detach() * 5])
    features.requires_grad_()

    loss(features, torch.tensor([0, 0, 1])).backward()

    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(loss.weight.grad).all()


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_logits_are_float32_under_autocast(name: str) -> None:
    features, labels = _batch(dtype=torch.float32)
    loss = LOSSES[name](5, 4)
    full = loss.eval()(features.bfloat16().float(), labels)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(features.bfloat16(), labels)

    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, full)


def test_lambda_counts_training_forwards_from_1_and_travels_with_the_state() -> None:
    features, labels = _batch()
    schedule = Annealing(1000, 0.12, 1, 5)
    loss = _loss("a_softmax", annealing=schedule)

    loss(features, labels)
    first = loss.lambda_
    loss.eval()(features, labels)
    loss.train()(features, labels)
    resumed = _loss("a_softmax", annealing=schedule)
    resumed.load_state_dict(loss.state_dict())

    assert first == 1000 / 1.12
    assert loss.lambda_ == resumed.lambda_ == 1000 / 1.24
    torch.testing.assert_close(resumed(features, labels), loss(features, labels))
    assert int(resumed.iteration) == 3


def test_an_annealing_is_its_formula_and_never_below_its_minimum() -> None:
    schedule = Annealing(1000, 2.5e-5, 35, 0)

    assert schedule.at(1) == pytest.approx(1000 * (1 + 2.5e-5) ** -35)
    assert schedule.at(10_000) == pytest.approx(1000 * 1.25**-35)
    assert Annealing(1000, 0.12, 1, 5).at(10**9) == 5
    assert Annealing.of((1000, 0.12, 1, 5)) == Annealing.of({"minimum": 5}) == Annealing()
    assert Annealing.of(None) is None


def test_center_is_half_the_mean_squared_distance_and_leaves_the_centres() -> None:
    features, labels = _batch()
    loss = _loss("center")
    loss.centers.normal_()
    before = loss.centers.clone()

    value = loss(features, labels)

    expected = 0.5 * np.mean([((x - before[y]) ** 2).sum().item() for x, y in zip(features, labels, strict=True)])
    assert value.item() == pytest.approx(expected)
    assert torch.equal(loss.centers, before)
    assert list(loss.parameters()) == []
    assert "centers" in loss.state_dict()


def test_the_centre_step_divides_by_one_more_than_the_members() -> None:
    loss = LOSSES["center"](2, 3, alpha=0.5).double()
    loss.centers.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [7.0, 7.0]]))
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [1.0, 3.0]], dtype=torch.float64)

    loss.update(features, torch.tensor([0, 0, 1]))

    # class 0: -(2 + 4) / (1 + 2) = -2, class 1: (0, -2) / (1 + 1) = (0, -1), class 2 has no member
    torch.testing.assert_close(loss.centers, torch.tensor([[1.0, 0.0], [1.0, 1.5], [7.0, 7.0]], dtype=torch.float64))


def _brute_force(unit: torch.Tensor, labels: torch.Tensor, mining: str, margin: float) -> list[tuple[int, int, int]]:
    distance = squared_distances(unit)
    n = len(labels)
    triplets = []
    for a in range(n):
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [q for q in range(n) if labels[q] != labels[a]]
        if mining == "batch_hard" and positives and negatives:
            positives = [max(positives, key=lambda p: distance[a, p])]
        for p in positives:
            chosen = negatives
            if mining == "semi_hard":
                chosen = [q for q in negatives if distance[a, p] < distance[a, q] < distance[a, p] + margin]
            if mining != "all" and chosen:
                chosen = [min(chosen, key=lambda q: distance[a, q])]
            triplets += [(a, p, q) for q in chosen]
    return triplets


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard", "batch_hard"])
@pytest.mark.parametrize("seed", range(5))
def test_mining_is_what_brute_force_finds(mining: str, seed: int) -> None:
    features, labels = _batch(seed=seed, n=20, classes=6)
    unit = F.normalize(features, dim=1)
    distance = squared_distances(unit)
    triplets = _brute_force(unit, labels, mining, 0.2)
    terms = [float(distance[a, p] - distance[a, q] + 0.2) for a, p, q in triplets]
    loss = LOSSES["triplet"](margin=0.2, mining=mining)

    value = loss(features, labels).item()

    assert loss.last.count == len(triplets)
    assert value == pytest.approx(np.mean(np.maximum(terms, 0)), rel=1e-9)
    assert loss.last.active == pytest.approx(np.mean(np.array(terms) > 0))


def test_triplet_does_not_look_at_the_length_of_features() -> None:
    features, labels = _batch(seed=2)
    loss = LOSSES["triplet"](mining="all")

    torch.testing.assert_close(loss(features, labels), loss(features * 9, labels))


def test_a_batch_without_triplets_costs_nothing_and_still_has_a_gradient() -> None:
    features = torch.randn(4, 3, requires_grad=True)

    value = LOSSES["triplet"](mining="hard")(features, torch.tensor([0, 1, 2, 3]))
    value.backward()

    assert value.item() == 0
    assert torch.equal(features.grad, torch.zeros(4, 3))


def test_a_collapsed_batch_shows_as_distance_0_with_the_loss_at_the_margin() -> None:
    loss = LOSSES["triplet"](margin=0.2, mining="batch_hard")

    value = loss(torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 2, 2]))

    assert value.item() == pytest.approx(0.2)
    found = (loss.last.active, loss.last.positive_distance, loss.last.negative_distance)
    assert found == pytest.approx((1, 0, 0), abs=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_two_classes_end_up_apart_by_m_minus_1_over_m_plus_1_of_the_angle_between_their_weights(m: int) -> None:
    """The decision margin of L-Softmax with |W_1| = |W_2|: where the loss of both labels is ln 2 at large |x|."""
    between = 1.0
    weight = torch.tensor([[1.0, 0.0], [math.cos(between), math.sin(between)]], dtype=torch.float64)
    loss = LOSSES["l_softmax"](2, 2, margin=m).double()
    loss.weight.data.copy_(weight)

    def boundary(label: int) -> float:
        """The angle at which the target's logit equals the other's, by bisection between the two weights."""
        low, high = 0.0, between
        for _ in range(60):
            middle = (low + high) / 2
            x = torch.tensor([[math.cos(middle), math.sin(middle)]], dtype=torch.float64)
            logits = loss.logits(x, weight, torch.tensor([label]))[0]
            wins = bool(logits[label] > logits[1 - label])
            low, high = (middle, high) if wins == (label == 0) else (low, middle)
        return low

    assert boundary(1) - boundary(0) == pytest.approx((m - 1) / (m + 1) * between, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "params", "word"),
    [
        ("l_softmax", {"margin": 0}, "margin"),
        ("l_softmax", {"margin": 2.5}, "margin"),
        ("a_softmax", {"margin": True}, "margin"),
        ("a_softmax", {"annealing": (-1, 0, 0, 0)}, "annealing"),
        ("center", {"alpha": 0}, "alpha"),
        ("cosface", {"margin": 2}, "margin"),
        ("arcface", {"margin": 1.7}, "margin"),
        ("arcface", {"scale": 0}, "scale"),
    ],
)
def test_bad_parameters_are_named(name: str, params: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        LOSSES[name](4, 3, **params)


def test_bad_shapes_and_bad_mining_are_named() -> None:
    with pytest.raises(ValueError, match="features must be"):
        LOSSES["softmax"](4, 3)(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="mining"):
        LOSSES["triplet"](mining="easy")
    with pytest.raises(ValueError, match="classes"):
        LOSSES["softmax"](4, 1)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_classification_loss_separates_simple_classes(name: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    features = (torch.eye(3)[labels] + 0.3 * torch.randn(120, 3)).requires_grad_()
    loss = LOSSES[name](3, 3, **({"margin": 2} if name.endswith("_softmax") else {}))
    optimiser = torch.optim.SGD([features, *loss.parameters()], lr=1.0)
    before = loss(features, labels).item()
    for _ in range(50):
        optimiser.zero_grad()
        loss(features, labels).backward()
        optimiser.step()

    assert loss(features, labels).item() < before / 2


def test_triplets_at_one_place_show_in_the_distance_of_all_pairs_though_none_is_mined() -> None:
    loss = LOSSES["triplet"](mining="semi_hard")
    loss(torch.ones(8, 4), torch.arange(8) // 2)

    assert (loss.last.count, loss.last.pair_distance) == (0, pytest.approx(0, abs=1e-6))

    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    loss(features, torch.arange(8) // 2)
    unit = F.normalize(features).double()
    apart = torch.cdist(unit, unit).square().sum().item() / (8 * 7)

    assert loss.last.pair_distance == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, "64", True, None])
@pytest.mark.parametrize(("name", "parameter"), [("cosface", "scale"), ("arcface", "margin"), ("triplet", "margin")])
def test_what_is_no_finite_number_is_refused(name: str, parameter: str, value: object) -> None:
    sizes = () if name == "triplet" else (4, 3)
    with pytest.raises(ValueError, match=f"{parameter} must be a finite number"):
        LOSSES[name](*sizes, **{parameter: value})


@pytest.mark.parametrize("labels", [[-1, 0], [0, 3], [0], []])
def test_center_refuses_labels_that_do_not_fit(labels: list[int]) -> None:
    center, features = LOSSES["center"](4, 3), torch.zeros(len(labels) if len(labels) != 1 else 2, 4)
    for call in (center, center.update):
        with pytest.raises(ValueError, match=r"labels|sample"):
            call(features, torch.tensor(labels, dtype=torch.long))


def test_center_takes_labels_of_any_integer_type() -> None:
    features, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1])
    for kind in (torch.uint8, torch.int16, torch.int32):
        first, second = LOSSES["center"](4, 3), LOSSES["center"](4, 3)
        first.update(features, labels)
        second.update(features, labels.to(kind))
        assert torch.equal(first.centers, second.centers)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_float64_features_meet_float32_weights(name: str) -> None:
    torch.manual_seed(0)
    value = LOSSES[name](4, 3)(torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)

    assert value.dtype == torch.float64
