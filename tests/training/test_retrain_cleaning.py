"""What cleaning takes for a mistake, on vectors whose mistakes are known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.retrain import cleaning, duplicates, review
from training.retrain.cleaning import Finding, Levels
from training.retrain.duplicates import Alike

D = 64
LEVELS = Levels(outlier=0.4, move=0.6)
NOBODY = Alike(np.empty((0, 2), np.int64), np.empty(0, np.float32), np.empty(0, np.bool_))


def _people(counts: list[int], noise: float = 0.5, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Unit vectors of people that have nothing in common, cosine within a person about 1 / (1 + noise^2)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    centres = np.linalg.qr(rng.normal(size=(D, len(counts))))[0].T
    vectors = centres[labels] + noise * rng.normal(size=(len(labels), D)) / D**0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def _find(vectors: NDArray[np.float32], labels: NDArray[np.int32], same: Alike = NOBODY) -> list[Finding]:
    people = [f"p{number}" for number in range(labels.max() + 1)]
    return cleaning.find(vectors, labels, people, same, LEVELS)


def test_right_labels_give_no_finding() -> None:
    assert _find(*_people([5, 1, 2, 7, 3, 1])) == []


def test_a_photo_in_anothers_folder_is_given_back() -> None:
    vectors, labels = _people([5, 5, 5])
    labels[0] = 1

    (found,) = _find(vectors, labels)

    assert (found.row, found.person, found.kind, found.decision) == (0, "p1", "wrong_label", "move:p0")
    assert found.score > LEVELS.move


def test_a_photo_of_nobody_known_is_dropped_from_whom_it_does_not_resemble() -> None:
    vectors, labels = _people([5, 5, 1])
    labels[10] = 0
    labels = labels[: 10 + 1]

    (found,) = _find(vectors, labels)

    assert (found.row, found.kind, found.decision) == (10, "outlier", "drop")
    assert found.score < LEVELS.outlier


def test_two_wrong_photos_of_five_do_not_move_the_centre() -> None:
    vectors, labels = _people([3, 5, 5, 5])
    labels[[3, 8]] = 0  # p0 has three of their own, and one each of two others

    found = _find(vectors, labels)

    assert {(each.row, each.decision) for each in found} == {(3, "move:p1"), (8, "move:p2")}


def test_of_two_photos_that_disagree_the_one_that_is_somebody_else_goes_and_the_other_stays() -> None:
    vectors, labels = _people([1, 5])
    labels[1] = 0

    (found,) = _find(vectors, labels)

    assert (found.row, found.decision) == (1, "move:p1")


def test_two_photos_that_disagree_and_are_nobody_else_are_both_dropped() -> None:
    vectors, labels = _people([1, 1, 5])
    labels = np.array([0, 0, 1, 1, 1, 1, 1], np.int32)

    found = _find(vectors, labels)

    assert [(each.row, each.kind, each.decision) for each in found] == [
        (0, "disagreement", "drop"),
        (1, "disagreement", "drop"),
    ]


def test_one_person_under_two_names_is_merged_into_the_larger() -> None:
    vectors, labels = _people([7, 4])
    labels[:2] = 2

    (found,) = _find(vectors, labels)

    assert (found.row, found.person, found.kind, found.decision) == (None, "p2", "same_person", "merge:p0")


def _pairs(vectors: NDArray[np.float32], *pairs: tuple[int, int], exact: bool = True) -> Alike:
    rows = np.array(pairs, np.int64)
    return Alike(
        rows, np.einsum("nd,nd->n", vectors[rows[:, 0]], vectors[rows[:, 1]]), np.full(len(rows), exact, np.bool_)
    )


@pytest.mark.parametrize(("exact", "kind"), [(True, "duplicate"), (False, "near_duplicate")])
def test_of_duplicates_within_a_person_the_first_stays(exact: bool, kind: str) -> None:
    vectors, labels = _people([4, 4])
    vectors[[2, 3]] = vectors[0]

    found = _find(vectors, labels, _pairs(vectors, (0, 2), (2, 3), exact=exact))

    assert [(each.row, each.kind, each.decision, each.other_row) for each in found] == [
        (2, kind, "drop", 0),
        (3, kind, "drop", 0),
    ]


def test_a_photo_in_two_folders_stays_where_it_resembles_the_others() -> None:
    vectors, labels = _people([4, 4])
    vectors[0] = vectors[5]

    (found,) = _find(vectors, labels, _pairs(vectors, (0, 5)))

    assert (found.row, found.kind, found.other_row, found.other_person) == (0, "two_people", 5, "p1")


def test_a_photo_in_two_folders_that_resembles_neither_is_dropped_from_both() -> None:
    vectors, labels = _people([4, 4, 1])
    vectors[0] = vectors[5] = vectors[8]

    found = _find(vectors[:8], labels[:8], _pairs(vectors, (0, 5)))

    assert {(each.row, each.kind) for each in found} == {(0, "two_people"), (5, "two_people")}


# Duplicates.


def _crops(count: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def test_a_brighter_copy_has_the_same_perceptual_hash_and_another_photo_has_not() -> None:
    crops = _crops(2)
    brighter = np.clip(crops[0].astype(np.int16) // 2 + 60, 0, 255).astype(np.uint8)

    first, other, copy = duplicates.perceptual_hashes(np.stack([crops[0], crops[1], brighter]))

    assert np.bitwise_count(first ^ copy) <= 4
    assert np.bitwise_count(first ^ other) > 10


def test_near_duplicates_need_both_the_cosine_and_the_picture() -> None:
    vectors, _ = _people([1, 1, 1])
    vectors = np.concatenate([vectors, vectors[:1], vectors[1:2]])
    bits = np.array([0b0, 0b1, 0b11, 0b1, 2**64 - 1], np.uint64)

    found = duplicates.alike(vectors, bits, (), near=0.99, hash_bits=6)

    assert found.pairs.tolist() == [[0, 3]]
    assert not found.exact.any()


def test_the_same_bytes_are_exact_duplicates_whatever_the_embedding_says() -> None:
    vectors, _ = _people([1, 1, 1])

    found = duplicates.alike(vectors, np.zeros(3, np.uint64), ([b"a", b"b", b"a"],), near=0.99, hash_bits=0)

    assert found.pairs.tolist() == [[0, 2]]
    assert found.exact.all()


# Review.


def _set(people: list[str]) -> AlignedSet:
    crops = np.zeros((len(people), 16, 16, 3), np.uint8)
    return AlignedSet.of(crops, people, [f"{row}.jpg" for row in range(len(people))])


def test_merges_are_followed_to_their_end_and_a_ring_of_them_ends() -> None:
    data = _set(["a", "b", "c", "d", "e"])
    findings = [
        Finding(None, name, "same_person", 0.9, f"merge:{into}")
        for name, into in (("a", "b"), ("b", "c"), ("d", "e"), ("e", "d"))
    ]

    assert review.apply(findings, [], data) == ["c", "c", "c", "d", "d"]


def test_a_moved_photo_follows_the_merge_of_whom_it_is_moved_to() -> None:
    data = _set(["a", "b", "c"])
    findings = [
        Finding(0, "a", "wrong_label", 0.9, "move:b"),
        Finding(None, "b", "same_person", 0.9, "merge:c"),
    ]

    assert review.apply(findings, [], data) == ["c", "c", "c"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("9.jpg,a,drop", "line 2: there is no photo '9.jpg' of 'a'"),
        (",nobody,drop", "line 2: there is no 'nobody'"),
        ("0.jpg,a,remove", "line 2: the decision must be keep, drop or move:PERSON, got 'remove'"),
        ("0.jpg,a,move:", "line 2: the decision must be"),
        (",a,move:b", "line 2: the decision must be keep, drop or merge:PERSON"),
        ("0.jpg,a,move:nobody", "line 2: there is no 'nobody' to move to"),
        (",a,merge:nobody", "line 2: there is no 'nobody' to merge into"),
    ],
)
def test_a_wrong_row_of_a_review_is_told_with_its_line(tmp_path: Path, row: str, says: str) -> None:
    path = tmp_path / "review.csv"
    path.write_text(f"photo,person,decision\n{row}\n")

    with pytest.raises(DataError, match=r"review\.csv") as caught:
        review.read_review(path, _set(["a", "b"]))
    assert says in caught.value.message


def test_what_is_written_for_review_is_read_back_as_it_was_found() -> None:
    data = _set(["a", "b"])
    text = review.to_csv([Finding(0, "a", "wrong_label", 0.91234, "move:b", None, "b")], data)

    assert text.splitlines() == [
        "photo,person,finding,score,other_photo,other_person,decision",
        "0.jpg,a,wrong_label,0.9123,,b,move:b",
    ]
