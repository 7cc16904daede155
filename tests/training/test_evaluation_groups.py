"""Rates of error by group against brute force."""

import numpy as np
import pytest

from training.embeddings import EmbeddedSet
from training.evaluation.groups import GroupRow, group_rows, group_rows_of_pairs
from training.evaluation.intervals import wilson
from training.evaluation.roc import embedded_set


def _data(seed: int) -> tuple[EmbeddedSet, tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(24), 3)
    vectors = rng.normal(size=(24, 8))[labels] + rng.normal(size=(72, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return embedded_set(vectors.astype(np.float32), labels), tuple("abc"[label % 3] for label in labels)


def _oracle(data: EmbeddedSet, values: tuple[str, ...], value: str, threshold: float) -> tuple[int, int, float, float]:
    rows = [row for row, other in enumerate(values) if other == value]
    wide = data.vectors.astype(np.float64)
    decided = {True: list[bool](), False: list[bool]()}
    for place, i in enumerate(rows):
        for j in rows[place + 1 :]:
            decided[bool(data.people[i] == data.people[j])].append(bool(wide[i] @ wide[j] >= threshold))
    genuine, impostor = decided[True], decided[False]
    return len(genuine), len(impostor), sum(impostor) / len(impostor), 1 - sum(genuine) / len(genuine)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_each_group_has_the_rates_of_the_pairs_within_it(threshold: float) -> None:
    data, values = _data(0)

    rows = group_rows(data, {"kind": values}, threshold)

    assert [(row.attribute, row.value, row.photos) for row in rows] == [("kind", value, 24) for value in "abc"]
    for row in rows:
        genuine, impostor, fmr, fnmr = _oracle(data, values, row.value, threshold)
        assert (row.genuine_pairs, row.impostor_pairs) == (genuine, impostor)
        assert row.fmr == pytest.approx(fmr)
        assert row.fnmr == pytest.approx(fnmr)
        assert row.tar == pytest.approx(1 - fnmr)
        assert (row.fmr_low, row.fmr_high) == wilson(round(fmr * impostor), impostor)
        assert (row.fnmr_low, row.fnmr_high) == wilson(round(fnmr * genuine), genuine)


def test_a_group_of_one_photo_has_no_rates() -> None:
    data, _ = _data(1)

    rows = group_rows(data, {"kind": ("alone", *["other"] * 71)}, 0.5)

    assert rows[0] == GroupRow("kind", "alone", 1, 0, 0, *[None] * 6)
    assert rows[0].tar is None
    assert rows[1].fmr is not None


def test_listed_pairs_are_counted_by_their_own_group() -> None:
    scores = np.array([0.9, 0.2, 0.5, 0.1, 0.7])
    same = np.array([True, True, False, False, False])

    rows = group_rows_of_pairs(scores, same, ["x", "x", "x", "x", "y"], 0.5)

    assert [(row.value, row.genuine_pairs, row.impostor_pairs) for row in rows] == [("x", 2, 2), ("y", 0, 1)]
    assert [(row.fmr, row.fnmr) for row in rows] == [(0.5, 0.5), (1.0, None)]
