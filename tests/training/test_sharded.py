"""The classifier shared out over 1, 2 and 3 processes against one that has all of it; and edge cases of the losses."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from sharded_ranks import (
    CLASSES,
    CUTS,
    DIMENSION,
    INPUTS,
    LOSS_PARAMS,
    RANKS,
    STEPS,
    backbone,
    batches,
    dense,
    optimiser,
    train,
    work,
)
from torch.nn import functional as F

from training.losses import LOSSES, Annealing
from training.losses.group import Group
from training.losses.reshard import full_optimiser_state, load_full_optimiser_state
from training.losses.sharded import ShardedLoss, _initial_rows, gather_batch

WORLDS = tuple(CUTS)
LABELS = torch.tensor([3, 0, 3, 6])
TOLERANCE = {torch.float64: {"rtol": 0, "atol": 1e-9}, torch.float32: {"rtol": 0, "atol": 1e-5}}
over_worlds = pytest.mark.parametrize("world", WORLDS)
over_losses = pytest.mark.parametrize("name", LOSS_PARAMS)
over_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of three processes found, by rank."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=RANKS, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@over_worlds
@over_losses
@over_dtypes
def test_loss_and_gradients_are_those_of_one_process(
    ranks: list[dict[Any, Any]], world: int, name: str, dtype: torch.dtype
) -> None:
    step, loss = batches(dtype)[0], dense(name, dtype)
    features = backbone(dtype)(step.inputs).detach().requires_grad_()
    expected = loss(features, step.labels)
    expected.backward()

    found = [ranks[rank][world, "gradients", name, dtype] for rank in range(world)]

    for value, _, _ in found:
        assert value == found[0][0]
        assert value == pytest.approx(expected.item(), abs=TOLERANCE[dtype]["atol"])
    rows = torch.cat([weight for _, _, weight in found])
    slopes = torch.cat([slope for _, slope, _ in found])
    torch.testing.assert_close(rows, loss.weight.grad, **TOLERANCE[dtype])
    # times the number of ranks, by which DistributedDataParallel divides
    torch.testing.assert_close(slopes, features.grad * world, **TOLERANCE[dtype])


@over_worlds
@over_losses
@over_dtypes
def test_a_run_with_momentum_and_decay_ends_at_the_weights_of_one_process(
    ranks: list[dict[Any, Any]], world: int, name: str, dtype: torch.dtype
) -> None:
    network, loss = backbone(dtype), dense(name, dtype)
    expected = train(network, loss, optimiser(network, loss), batches(dtype))

    for rank in range(world):
        values, state, classifier = ranks[rank][world, "trained", name, dtype]
        assert values == pytest.approx(expected, abs=TOLERANCE[dtype]["atol"])
        for key, weight in network.state_dict().items():
            torch.testing.assert_close(state[key], weight, **TOLERANCE[dtype])
        if rank:
            assert classifier is None
        else:
            assert int(classifier["iteration"]) == STEPS
            torch.testing.assert_close(classifier["weight"], loss.weight.detach(), **TOLERANCE[dtype])


@over_worlds
def test_a_checkpoint_of_two_ranks_goes_on_on_any_number(ranks: list[dict[Any, Any]], world: int) -> None:
    network, loss = backbone(torch.float64), dense("a_softmax", torch.float64)
    train(network, loss, optimiser(network, loss), batches(torch.float64))

    state, classifier = ranks[0][world, "resumed"]

    torch.testing.assert_close(state, network.state_dict(), rtol=0, atol=1e-9)
    torch.testing.assert_close(classifier, loss.state_dict(), rtol=0, atol=1e-9)


@over_worlds
def test_centres_moved_by_the_gathered_batch_are_those_of_one_process(ranks: list[dict[Any, Any]], world: int) -> None:
    center = LOSSES["center"](INPUTS, CLASSES).double()
    for step in batches(torch.float64):
        center.update(step.inputs, step.labels)

    for rank in range(world):
        torch.testing.assert_close(ranks[rank][world, "centres"], center.centers, rtol=0, atol=1e-12)


@over_worlds
def test_a_sampled_loss_is_the_softmax_over_the_rows_in_use(ranks: list[dict[Any, Any]], world: int) -> None:
    network, loss = backbone(torch.float64), dense("arcface", torch.float64)
    drawn = set()
    for i, step in enumerate(batches(torch.float64)):
        found = [ranks[rank][world, "sampled"][i] for rank in range(world)]
        classes = torch.cat([rows for rows, _, _ in found])
        drawn.add(tuple(classes.tolist()))
        logits = loss.logits(network(step.inputs), loss.weight, step.labels)
        expected = F.cross_entropy(logits[:, classes], torch.searchsorted(classes, step.labels))
        (slope,) = torch.autograd.grad(expected, loss.weight)

        for rank, (rows, value, gradient) in enumerate(found):
            held = Group(rank, world).share(CLASSES)
            positive = {label for label in step.labels.tolist() if label in held}
            assert positive <= set(rows.tolist())
            assert len(rows) == len(set(rows.tolist())) == max(len(positive), round(0.7 * len(held)))
            assert value == pytest.approx(expected.item(), abs=1e-12)
            torch.testing.assert_close(gradient, slope[held.start : held.stop], rtol=0, atol=1e-12)
    assert len(drawn) > 1


@over_worlds
def test_a_rank_without_samples_takes_part(ranks: list[dict[Any, Any]], world: int) -> None:
    step = batches(torch.float64)[0]
    features = step.inputs[:, :DIMENSION].clone().requires_grad_()
    expected = dense("cosface", torch.float64)(features, step.labels)
    expected.backward()

    found = [ranks[rank][world, "some rank has no sample"] for rank in range(world)]

    assert all(value == pytest.approx(expected.item(), abs=1e-12) for value, _ in found)
    torch.testing.assert_close(torch.cat([slope for _, slope in found]), features.grad * world, rtol=0, atol=1e-12)


@over_worlds
def test_a_label_out_of_range_on_one_rank_is_an_error_on_all(ranks: list[dict[Any, Any]], world: int) -> None:
    for rank in range(world):
        assert ranks[rank][world, "error"] == "labels must be between 0 and 6, got 7"


@pytest.mark.parametrize("count", [3, 7, 1000])
@over_worlds
def test_shares_are_contiguous_and_differ_by_at_most_one(count: int, world: int) -> None:
    shares = [Group(rank, world).share(count) for rank in range(world)]

    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_classifier_begins_the_same_on_any_number_of_ranks() -> None:
    whole = ShardedLoss("softmax", 4, 3000, seed=1).weight
    parts = [_initial_rows(Group(rank, 3).share(3000), 4, 3000, seed=1) for rank in range(3)]

    assert torch.equal(torch.cat(parts), whole)
    bound = math.sqrt(6 / 3004)
    assert whole.abs().max() <= bound
    assert whole.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not torch.equal(whole, ShardedLoss("softmax", 4, 3000, seed=2).weight)


def _alone(sample_rate: float = 0.2, classes: int = 40, **settings: Any) -> ShardedLoss:
    return ShardedLoss("softmax", 3, classes, sample_rate=sample_rate, **settings).double()


def _draws(loss: ShardedLoss, steps: int) -> list[list[int]]:
    features = torch.randn(4, 3, dtype=torch.float64)
    found = []
    for _ in range(steps):
        loss(features, LABELS)
        found.append(loss.rows_in_use(LABELS).tolist())
    return found


def test_a_resumed_run_draws_the_rows_of_one_that_was_not_interrupted() -> None:
    through, first, second = _alone(seed=3), _alone(seed=3), _alone(seed=3)

    expected = _draws(through, 4)
    early = _draws(first, 2)
    second.load_full_state_dict(first.full_state_dict() or {})

    assert early + _draws(second, 2) == expected
    assert _draws(_alone(seed=4), 4) != expected


def test_every_row_is_drawn_as_often_as_the_others() -> None:
    loss = _alone(classes=20)
    counts = torch.zeros(20)
    for iteration in range(1500):
        loss.loss.iteration.fill_(iteration)
        counts[loss.rows_in_use(LABELS)] += 1

    others = [i for i in range(20) if i not in LABELS.tolist()]
    assert (counts[LABELS] == 1500).all()
    # one of the seventeen others a step
    assert ((counts[others] - 1500 / 17).abs() < 5 * math.sqrt(1500 / 17)).all()


def test_more_positives_than_the_rate_allows_are_all_kept_and_a_rank_is_never_empty() -> None:
    loss = _alone(0.01)

    assert loss.rows_in_use(LABELS).tolist() == [0, 3, 6]
    assert len(loss.rows_in_use(torch.tensor([], dtype=torch.long))) == 1


def test_without_gradient_all_rows_are_used_and_no_iteration_is_counted_in_evaluation() -> None:
    features = torch.randn(4, 3, dtype=torch.float64)
    loss = _alone().eval()
    with torch.no_grad():
        value = loss(features, LABELS)

    assert value.item() == pytest.approx(F.cross_entropy(features @ loss.weight.T, LABELS).item(), abs=1e-12)
    assert int(loss.loss.iteration) == 0


def test_rows_not_in_use_move_by_momentum_and_decay_alone() -> None:
    loss, rate, momentum, decay = _alone(), 0.5, 0.9, 0.01
    moved_by = torch.optim.SGD(loss.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    for _ in range(3):
        moved_by.zero_grad()
        loss(torch.randn(4, 3, dtype=torch.float64), LABELS).backward()
        before = loss.weight.detach().clone()
        buffer = moved_by.state[loss.weight].get("momentum_buffer", torch.zeros_like(before)).clone()
        moved_by.step()
        unused = torch.ones(40, dtype=torch.bool)
        unused[loss.rows_in_use(LABELS)] = False

        expected = before - rate * (momentum * buffer + decay * before)

        torch.testing.assert_close(loss.weight.detach()[unused], expected[unused], rtol=0, atol=1e-12)
        assert unused.sum() == 32


@over_losses
def test_one_process_needs_no_group_and_leaves_a_state_that_the_loss_loads(name: str) -> None:
    sharded = ShardedLoss(name, DIMENSION, CLASSES, **LOSS_PARAMS[name])
    features, labels = torch.randn(9, DIMENSION), torch.arange(9) % CLASSES
    sharded(features, labels)
    loss = LOSSES[name](DIMENSION, CLASSES, **LOSS_PARAMS[name])
    loss.load_state_dict(sharded.full_state_dict())

    torch.testing.assert_close(sharded(features, labels), loss(features, labels))
    assert int(loss.iteration) == 2
    together = gather_batch(features.requires_grad_(), labels)
    assert torch.equal(together[0], features)
    assert not together[0].requires_grad
    assert torch.equal(together[1], labels)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_without_steps_or_with_moments_goes_into_a_checkpoint(kind: type[torch.optim.Optimizer]) -> None:
    loss = _alone(1.0)
    moved_by = kind(loss.parameters(), lr=0.1)

    assert full_optimiser_state(moved_by, loss)["state"] == {}
    loss(torch.randn(4, 3, dtype=torch.float64), LABELS).backward()
    moved_by.step()
    again = kind(loss.parameters(), lr=0.1)
    load_full_optimiser_state(again, loss, full_optimiser_state(moved_by, loss))

    torch.testing.assert_close(again.state_dict(), moved_by.state_dict())


def test_what_cannot_be_sharded_resumed_or_sampled_is_named() -> None:
    with pytest.raises(ValueError, match="one of a_softmax, arcface, cosface, l_softmax, softmax, got 'center'"):
        ShardedLoss("center", 3, 4)
    with pytest.raises(ValueError, match="sample_rate must be in"):
        ShardedLoss("softmax", 3, 4, sample_rate=0)
    with pytest.raises(ValueError, match="margin"):
        ShardedLoss("a_softmax", 3, 4, margin=0)
    loss = ShardedLoss("softmax", 3, 4)
    with pytest.raises(ValueError, match=r"must be \(4, 3\), got \(5, 3\)"):
        loss.load_full_state_dict(LOSSES["softmax"](3, 5).state_dict())
    with pytest.raises(ValueError, match="has weight and iteration, got weight"):
        loss.load_full_state_dict({"weight": loss.weight})
    with pytest.raises(ValueError, match="does not move"):
        full_optimiser_state(torch.optim.SGD(torch.nn.Linear(2, 2).parameters()), loss)


@over_losses
def test_int32_labels_are_taken_and_wrong_ones_are_named(name: str) -> None:
    loss = dense(name, torch.float32)
    features = torch.randn(4, DIMENSION)

    torch.testing.assert_close(loss.eval()(features, LABELS.int()), loss(features, LABELS))
    for labels, word in ((LABELS + 1, "got 7"), (LABELS - 100, "got -100")):
        with pytest.raises(ValueError, match=word):
            loss.train()(features, labels)
    with pytest.raises(ValueError, match="at least one sample"):
        loss(features[:0], LABELS[:0])
    assert int(loss.iteration) == 0


@over_losses
def test_a_feature_of_zero_does_not_send_a_huge_gradient(name: str) -> None:
    loss = dense(name, torch.float32)
    features = torch.zeros(2, DIMENSION)
    features[1] = 1
    features.requires_grad_()

    loss(features, torch.tensor([0, 1])).backward()

    assert features.grad.abs().max() < 100
    assert loss.weight.grad.abs().max() < 100


def test_a_feature_of_zero_does_not_send_a_huge_gradient_through_triplets() -> None:
    features = torch.eye(4)
    features[0] = 0
    features.requires_grad_()

    LOSSES["triplet"](mining="all")(features, torch.tensor([0, 0, 1, 1])).backward()

    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().max() < 100


@pytest.mark.parametrize("angle", [1e-7, 1e-5, 1e-3, 0.1, math.pi - 0.31])
def test_the_logit_of_arcface_and_its_slope_are_right_at_small_and_large_angles(angle: float) -> None:
    margin = 0.3
    loss = LOSSES["arcface"](2, 2, scale=1.0, margin=margin).double()
    weight = torch.eye(2, dtype=torch.float64)
    turn = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    x = torch.stack([turn.cos(), turn.sin()])[None]

    logit = loss.logits(x, weight, torch.tensor([0]))[0, 0]
    (slope,) = torch.autograd.grad(logit, turn)

    assert logit.item() == pytest.approx(math.cos(angle + margin), abs=1e-12)
    assert slope.item() == pytest.approx(-math.sin(angle + margin), abs=1e-8)


@pytest.mark.parametrize("name", ["l_softmax", "a_softmax"])
def test_rounding_beyond_a_cosine_of_1_does_not_lose_the_slope_of_psi(name: str) -> None:
    """In float32 the cosine of a feature near its weight is often above 1; the slope is m^2 times the cosine's."""
    loss, angle = LOSSES[name](64, 2, margin=4), 2e-4
    generator = torch.Generator().manual_seed(0)
    w = F.normalize(torch.randn(64, generator=generator), dim=0)
    across = torch.randn(200, 64, generator=generator)
    across = F.normalize(across - (across @ w)[:, None] * w)
    features = (w + angle * across).requires_grad_()

    logits = loss.logits(features, torch.stack([w, -w]), torch.zeros(200, dtype=torch.long))[:, 0]
    (slope,) = torch.autograd.grad(logits.sum(), features)

    along_the_arc = (slope * (across - angle * w)).sum(dim=1)
    torch.testing.assert_close(along_the_arc / angle, torch.full((200,), -16.0), rtol=0.01, atol=0)


def test_features_in_half_precision_are_summed_over_classes_in_float32() -> None:
    loss = ShardedLoss("arcface", DIMENSION, CLASSES)
    features, labels = torch.randn(9, DIMENSION).bfloat16().requires_grad_(), torch.arange(9) % CLASSES
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(features, labels)
    mixed.backward()

    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, loss(features.float(), labels))
    assert features.grad.dtype == torch.bfloat16


def test_an_annealing_that_is_none_is_named() -> None:
    for wrong in ((1, 2, 3, 4, 5), {"lambda": 3}, ("many", 1, 1, 1), (math.nan, 1, 1, 1), (math.inf, 1, 1, 1)):
        with pytest.raises(ValueError, match="annealing"):
            Annealing.of(wrong)


@over_losses
def test_scores_are_the_logits_without_a_margin(name: str) -> None:
    features = torch.randn(6, DIMENSION)
    loss = dense(name, torch.float32)
    everywhere = torch.stack([loss.logits(features, loss.weight, torch.full((6,), j)) for j in range(CLASSES)])

    scores = loss.scores(features)

    assert not scores.requires_grad
    for j in range(CLASSES):
        others = [k for k in range(CLASSES) if k != j]
        torch.testing.assert_close(everywhere[j][:, others], scores[:, others])
