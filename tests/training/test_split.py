"""Splits by people: nobody on both sides, the same on every machine."""

import hashlib

import numpy as np
import pytest

from training.data.aligned import AlignedSet, check_disjoint, split_people
from training.data.people import DataError


def _set(names: list[str]) -> AlignedSet:
    crops = np.arange(len(names) * 12).astype(np.uint8).reshape(-1, 2, 2, 3)
    return AlignedSet.of(crops, names, [f"{name}/{number}" for number, name in enumerate(names)])


LARGE = _set([f"person {number % 1000}" for number in range(2500)])


def test_nobody_is_on_both_sides_and_nothing_is_lost() -> None:
    rest, held = split_people(LARGE, 0.3)

    check_disjoint(rest, held)
    assert sorted(rest.people + held.people) == sorted(LARGE.people)
    assert sorted(rest.photos + held.photos) == sorted(LARGE.photos)
    for part in (rest, held):
        assert all(photo.startswith(part.people[label] + "/") for photo, label in zip(part.photos, part.labels))  # noqa: B905


def test_about_the_share_of_the_people_is_held_out() -> None:
    for share in (0.1, 0.5, 0.9):
        _, held = split_people(LARGE, share)
        assert abs(len(held.people) / 1000 - share) < 0.05


def test_a_persons_side_is_the_hash_of_salt_and_name() -> None:
    _, held = split_people(LARGE, 0.25, salt="v1/")

    def is_held(name: str) -> bool:
        return int(hashlib.sha256(f"v1/{name}".encode()).hexdigest()[:16], 16) < 2**64 // 4

    assert held.people == tuple(name for name in LARGE.people if is_held(name))


def test_who_else_is_in_the_set_does_not_move_a_person() -> None:
    _, held = split_people(LARGE, 0.3)
    _, held_of_half = split_people(LARGE.subset(np.arange(500)), 0.3)

    assert set(held_of_half.people) <= set(held.people)


def test_a_larger_share_holds_out_the_same_people_and_more() -> None:
    assert set(split_people(LARGE, 0.2)[1].people) < set(split_people(LARGE, 0.4)[1].people)


def test_another_salt_is_another_split() -> None:
    assert split_people(LARGE, 0.3)[1].people != split_people(LARGE, 0.3, salt="x")[1].people


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_the_open_interval_is_refused(share: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        split_people(LARGE, share)


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_split_with_an_empty_side_is_refused(share: float) -> None:
    with pytest.raises(DataError, match="leaves a side empty"):
        split_people(_set(["ann", "bob", "cid"]), share)


def test_a_person_in_both_sets_is_named() -> None:
    with pytest.raises(DataError, match="2 people are in both sets, 'bob' is one"):
        check_disjoint(_set(["ann", "bob", "cid"]), _set(["bob", "dee", "cid"]))
