"""The aligned set: what is kept, what a subset is, and what damage is told."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.aligned import AlignedSet
from training.data.people import DataError
from training.data.rows import Rows, take

NAMES = ["zoe", "adam", "eve", "adam", "zoe", "zoe"]
PHOTOS = [f"{name}/{number}.jpg" for number, name in enumerate(NAMES)]


def _crops(count: int = len(NAMES), shape: tuple[int, int, int] = (4, 3, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, *shape), np.uint8)


def _set(crops: NDArray[np.uint8] | None = None) -> AlignedSet:
    groups = {"sex": ["f", "m", "f", "m", "f", "f"]}
    return AlignedSet.of(_crops() if crops is None else crops, NAMES, PHOTOS, "arcface", "some photos", groups)


def _problem(folder: Path, verify: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        AlignedSet.open(folder, verify)
    assert "\n" not in caught.value.message
    assert str(folder) in caught.value.message
    return caught.value.message


def _change(folder: Path, **fields: object) -> None:
    path = folder / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    _set().save(tmp_path / "set")
    return tmp_path / "set"


def test_people_are_sorted_and_labels_point_at_them() -> None:
    data = _set()

    assert data.people == ("adam", "eve", "zoe")
    assert data.labels.tolist() == [2, 0, 1, 0, 2, 2]
    assert data.labels.dtype == np.int32
    assert data.counts.tolist() == [2, 1, 3]
    assert len(data) == 6


@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 5, 1)])
def test_what_is_saved_is_what_is_opened(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    data = _set(_crops(shape=shape))
    data.save(tmp_path / "new" / "set")

    found = AlignedSet.open(tmp_path / "new" / "set", verify=True)

    assert isinstance(found.crops, np.memmap)
    np.testing.assert_array_equal(found.crops, data.crops)
    np.testing.assert_array_equal(found.labels, data.labels)
    for name in ("people", "photos", "template", "digest", "source", "groups"):
        assert getattr(found, name) == getattr(data, name), name


def test_a_set_larger_than_one_piece_is_saved_whole(tmp_path: Path) -> None:
    crops = _crops(1000, (2, 2, 1))
    AlignedSet.of(crops, [f"p{number % 9}" for number in range(1000)], ["photo"] * 1000).save(tmp_path / "set")

    np.testing.assert_array_equal(AlignedSet.open(tmp_path / "set", verify=True).crops, crops)


def test_the_same_set_is_saved_as_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _set().save(tmp_path / name)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    for file in ("crops.npy", "hashes.npy", "set.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_crops_are_read_by_numpy_without_this_project(saved: Path) -> None:
    np.testing.assert_array_equal(np.load(saved / "crops.npy"), _crops())


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    _set().save(tmp_path / "set")
    with pytest.raises(DataError, match="exists already"):
        _set().save(tmp_path / "set")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        _set().save(tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot write"):
        _set().save(tmp_path / "file" / "set")


def test_a_set_without_images_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no image in the set"):
        _set().subset(np.zeros(6, np.bool_)).save(tmp_path / "set")


def test_the_digest_changes_with_every_part() -> None:
    crops = _crops()
    other = crops.copy()
    other[3, 2, 1, 0] ^= 1
    people = ["zoe", "adam", "eve", "adam", "zoe", "eve"]
    digests = {
        AlignedSet.of(crops, NAMES, PHOTOS, "arcface", "s", {"sex": NAMES}).digest,
        AlignedSet.of(other, NAMES, PHOTOS, "arcface", "s", {"sex": NAMES}).digest,
        AlignedSet.of(crops, people, PHOTOS, "arcface", "s", {"sex": NAMES}).digest,
        AlignedSet.of(crops, NAMES, PHOTOS[::-1], "arcface", "s", {"sex": NAMES}).digest,
        AlignedSet.of(crops, NAMES, PHOTOS, None, "s", {"sex": NAMES}).digest,
        AlignedSet.of(crops, NAMES, PHOTOS, "arcface", "t", {"sex": NAMES}).digest,
        AlignedSet.of(crops, NAMES, PHOTOS, "arcface", "s", {"age": NAMES}).digest,
        AlignedSet.of(crops, NAMES, PHOTOS, "arcface", "s").digest,
        AlignedSet.of(crops.reshape(6, 3, 4, 3), NAMES, PHOTOS, "arcface", "s", {"sex": NAMES}).digest,
    }
    assert len(digests) == 9


def test_a_subset_drops_people_without_images_and_keeps_the_rest_in_step(tmp_path: Path) -> None:
    data = _set()
    part = data.subset(np.array([True, False, False, False, True, False]))

    assert (part.people, part.labels.tolist(), part.photos) == (("zoe",), [0, 0], (PHOTOS[0], PHOTOS[4]))
    np.testing.assert_array_equal(part.crops, data.crops[[0, 4]])
    assert part.groups == {"sex": ("f", "f")}
    assert part.digest != data.digest


def test_a_subset_by_indices_is_in_their_order_and_may_repeat() -> None:
    data = _set()
    part = data.subset(np.array([5, 2, 2]))

    assert [part.people[label] for label in part.labels] == ["zoe", "eve", "eve"]
    np.testing.assert_array_equal(part.crops, data.crops[[5, 2, 2]])


def test_the_digest_of_a_subset_is_that_of_the_same_set_made_anew_and_saved(saved: Path) -> None:
    opened = AlignedSet.open(saved)
    part = opened.subset(np.array([1, 3, 4]))
    again = AlignedSet.of(
        _crops()[[1, 3, 4]],
        [NAMES[row] for row in (1, 3, 4)],
        [PHOTOS[row] for row in (1, 3, 4)],
        "arcface",
        "some photos",
        {"sex": ["m", "m", "f"]},
    )
    part.save(saved.parent / "part")

    assert part.digest == again.digest == AlignedSet.open(saved.parent / "part", verify=True).digest
    assert opened.subset(np.arange(6)).digest == opened.digest


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        _set().subset(np.ones(5, np.bool_))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 2, 2, 2, 0], "label 1 has no image, labels must be 0..C-1"),
        ([0, 1, 2, 3, 0, 1], r"a label lies outside 0\.\.2: 0\.\.3"),
        ([0, -1, 2, 1, 0, 1], "a label lies outside"),
        ([0, 1, 2], "6 crops, but 3 labels"),
    ],
)
def test_labels_that_do_not_fit_are_one_clear_line(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AlignedSet(_crops(), np.array(labels, np.int32), ("a", "b", "c"), tuple(PHOTOS), None, "", "")


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (np.zeros((6, 4, 4), np.uint8), "crops must be uint8"),
        (np.zeros((6, 4, 4, 2), np.uint8), "crops must be uint8"),
        (np.zeros((6, 4, 4, 3), np.float32), "crops must be uint8"),  # type: ignore[arg-type]
    ],
)
def test_crops_of_another_kind_are_one_clear_line(crops: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AlignedSet(crops, np.zeros(6, np.int32), ("a",), tuple(PHOTOS), None, "", "")


def test_photos_and_groups_of_another_length_and_names_that_are_there_twice_are_refused() -> None:
    with pytest.raises(DataError, match="6 crops, but 5 photos"):
        AlignedSet.of(_crops(), NAMES, PHOTOS[:5])
    with pytest.raises(DataError, match="6 crops, but 1 values of 'sex'"):
        AlignedSet.of(_crops(), NAMES, PHOTOS, groups={"sex": ["f"]})
    with pytest.raises(DataError, match="two people of one name"):
        AlignedSet(_crops(2), np.array([0, 1], np.int32), ("a", "a"), ("x", "y"), None, "", "")


def test_a_folder_that_is_no_set_is_one_clear_line(tmp_path: Path) -> None:
    assert "is no aligned set" in _problem(tmp_path)
    assert "is no aligned set" in _problem(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["crops.npy", "hashes.npy", "set.json"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_a_cut_off_file_is_named_in_the_error(saved: Path, file: str, share: float) -> None:
    data = (saved / file).read_bytes()
    (saved / file).write_bytes(data[: int(len(data) * share)])

    assert file in _problem(saved)


@pytest.mark.parametrize("file", ["crops.npy", "hashes.npy"])
def test_a_missing_file_and_one_of_another_shape_are_named_in_the_error(saved: Path, file: str) -> None:
    np.save(saved / file, np.zeros((6, 4, 3, 1), np.uint8))
    assert "as set.json says" in _problem(saved)
    (saved / file).unlink()
    assert file in _problem(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": [2, 0, 1, 0, 2, 1]}, "digest differs"),
        ({"people": ["adam", "eve", "zoo"]}, "digest differs"),
        ({"template": None}, "digest differs"),
        ({"digest": "0" * 64}, "digest differs"),
        ({"labels": [2, 0, 0, 0, 2, 2]}, "label 1 has no image"),
        ({"labels": [2, 0, 2**40, 0, 2, 2]}, "is damaged"),
        ({"labels": "none"}, "set.json is damaged: labels"),
        ({"extra": 1}, "set.json is damaged: extra"),
        ({"format": 2}, "is of format 2, this version reads 1"),
    ],
)
def test_a_changed_header_is_one_clear_line(saved: Path, fields: dict[str, object], message: str) -> None:
    _change(saved, **fields)

    assert message in _problem(saved)


def test_a_changed_pixel_is_found_when_asked_for_and_its_photo_is_named(saved: Path) -> None:
    data = bytearray((saved / "crops.npy").read_bytes())
    data[-40] ^= 1  # of the last crop but one: each has 36 bytes
    (saved / "crops.npy").write_bytes(data)

    AlignedSet.open(saved)
    assert "1 crops differ, 'zoe/4.jpg' is the first" in _problem(saved, verify=True)


def test_a_large_selection_is_read_only_where_it_is_indexed(saved: Path) -> None:
    crops = AlignedSet.open(saved).crops
    rows = np.array([5, 0, 3, 4])
    lazy = take(crops, rows, copy_below=0)
    copy = crops[rows]

    assert isinstance(lazy, Rows)
    assert (lazy.shape, len(lazy), lazy.dtype, lazy.nbytes) == (copy.shape, 4, np.uint8, copy.nbytes)
    np.testing.assert_array_equal(np.asarray(lazy), copy)
    np.testing.assert_array_equal(np.stack(list(lazy)), copy)
    for index in (2, -1, slice(1, 3), np.array([3, 3, 0]), np.array([True, False, True, False])):
        np.testing.assert_array_equal(lazy[index], copy[index])
    np.testing.assert_array_equal(lazy[1, 2], copy[1, 2])
    np.testing.assert_array_equal(lazy[1:3, :2, ::-1], copy[1:3, :2, ::-1])


def test_a_selection_of_a_large_selection_goes_back_to_the_file(saved: Path) -> None:
    crops = AlignedSet.open(saved).crops
    lazy = take(take(crops, np.array([5, 0, 3, 4]), 0), np.array([2, 0]), 0)

    np.testing.assert_array_equal(np.asarray(lazy), crops[[3, 5]])


def test_a_large_selection_saves_and_splits_as_a_copy_does(tmp_path: Path) -> None:
    rows = np.array([5, 0, 3, 4])
    lazy = AlignedSet.of(take(_crops(), rows, 0), [NAMES[row] for row in rows], [PHOTOS[row] for row in rows])
    copy = AlignedSet.of(_crops()[rows], [NAMES[row] for row in rows], [PHOTOS[row] for row in rows])

    lazy.save(tmp_path / "set")

    assert lazy.digest == copy.digest == AlignedSet.open(tmp_path / "set", verify=True).digest
    assert lazy.subset(np.array([1, 2])).digest == copy.subset(np.array([1, 2])).digest
