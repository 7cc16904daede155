"""Which photos make up which batch."""

import numpy as np
import pytest

from training.data.people import DataError
from training.data.samplers import PeopleBatches, ShuffledBatches, photos_an_epoch, steps_from


def _photos(count: int) -> np.ndarray:
    """Labels of photos of different people."""
    return np.arange(count, dtype=np.int32)


def test_every_photo_comes_once_an_epoch() -> None:
    batches = ShuffledBatches(_photos(10), 4, seed=1)

    seen = [(int(p), int(e)) for step in range(5) for p, e in zip(*_parts(batches, step), strict=True)]

    assert sorted(seen) == sorted((photo, epoch) for photo in range(10) for epoch in range(2))
    assert [epoch for _, epoch in seen] == [0] * 10 + [1] * 10


def _parts(batches: ShuffledBatches, step: int) -> tuple[np.ndarray, np.ndarray]:
    picked = batches.at(step)
    return picked.photos, picked.epochs


def test_epochs_have_orders_of_their_own() -> None:
    batches = ShuffledBatches(_photos(64), 64, seed=1)

    assert not np.array_equal(batches.at(0).photos, batches.at(1).photos)
    assert not np.array_equal(batches.at(0).photos, ShuffledBatches(_photos(64), 64, seed=2).at(0).photos)


def test_a_step_is_the_same_whether_or_not_the_ones_before_were_asked_for() -> None:
    whole = [picked.photos for picked in steps_from(ShuffledBatches(_photos(37), 5, seed=3), 0, 20)]
    late = [picked.photos for picked in steps_from(ShuffledBatches(_photos(37), 5, seed=3), 11, 20)]

    np.testing.assert_array_equal(np.stack(whole[11:]), np.stack(late))


def test_ranks_share_what_one_process_would_see() -> None:
    alone = ShuffledBatches(_photos(50), 12, seed=4)
    ranks = [ShuffledBatches(_photos(50), 4, seed=4, rank=rank, ranks=3) for rank in range(3)]

    for step in range(9):
        together = np.concatenate([rank.at(step).photos for rank in ranks])
        np.testing.assert_array_equal(together, alone.at(step).photos)


def test_batches_of_people_have_p_people_with_k_different_photos() -> None:
    labels = np.repeat(np.arange(9, dtype=np.int32), 5)
    batches = PeopleBatches(labels, people=4, images=3, seed=0)

    for step in range(12):
        photos = batches.at(step).photos
        people, counts = np.unique(labels[photos], return_counts=True)
        assert len(people) == 4
        assert (counts == 3).all()
        assert len(set(photos.tolist())) == 12


def test_a_person_with_fewer_photos_than_asked_for_repeats_them_augmented_anew() -> None:
    labels = np.array([0, 0, 1, 1, 2], np.int32)
    picked = PeopleBatches(labels, people=2, images=4, seed=0).at(0)

    assert set(labels[picked.photos].tolist()) == {0, 1}
    assert len({(int(p), int(e)) for p, e in zip(picked.photos, picked.epochs, strict=True)}) == 8


def test_ranks_never_get_the_same_person_in_one_step() -> None:
    labels = np.repeat(np.arange(11, dtype=np.int32), 4)
    ranks = [PeopleBatches(labels, people=3, images=2, seed=5, rank=rank, ranks=2) for rank in range(2)]

    for step in range(10):
        first, second = (set(labels[rank.at(step).photos].tolist()) for rank in ranks)
        assert not first & second


def test_one_photo_a_person_cannot_make_pairs() -> None:
    with pytest.raises(DataError, match="0 people have two or more photos"):
        PeopleBatches(np.arange(8, dtype=np.int32), people=2, images=2, seed=0)


def test_no_photos_are_no_batches() -> None:
    with pytest.raises(DataError, match="no photos"):
        ShuffledBatches(_photos(0), 4, seed=0)


def test_a_cap_takes_that_many_photos_of_a_person_at_most_and_others_in_the_next_epoch() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), [1, 2, 9, 30])
    batches = ShuffledBatches(labels, 3, seed=6, cap=3)

    epochs = [np.concatenate([batches.at(step).photos for step in range(3 * e, 3 * e + 3)]) for e in range(4)]

    assert photos_an_epoch(labels, 3) == batches.count == 9
    for photos in epochs:
        assert np.bincount(labels[photos]).tolist() == [1, 2, 3, 3]
        assert len(set(photos.tolist())) == 9
    assert len(set(np.concatenate(epochs).tolist())) > 12


def test_a_capped_step_is_the_same_whether_or_not_the_ones_before_were_asked_for_and_on_every_rank() -> None:
    labels = np.repeat(np.arange(6, dtype=np.int32), [1, 1, 2, 5, 8, 13])
    alone = ShuffledBatches(labels, 4, seed=7, cap=2)
    ranks = [ShuffledBatches(labels, 2, seed=7, rank=rank, ranks=2, cap=2) for rank in range(2)]

    for step in (11, 3, 12, 0):
        together = np.concatenate([rank.at(step).photos for rank in ranks])
        np.testing.assert_array_equal(together, alone.at(step).photos)
