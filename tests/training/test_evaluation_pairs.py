"""Lists of pairs: LFW's and CSV."""

import csv
from pathlib import Path

import pytest

from training.data.errors import DataError
from training.evaluation.pairs import NamedPair, read_pairs, resolve


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lfw_s_list_has_folds_each_with_genuine_pairs_first(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "pairs.txt",
        "2\t1\nAbel_Pacheco\t1\t4\nAbdel_Madi_Shabneh\t1\tDean_Barker\t1\nAkhmed_Zakayev\t1\t3\nA\t2\tB\t10\n",
    )

    pairs = read_pairs(path)

    assert pairs == (
        NamedPair("Abel_Pacheco/Abel_Pacheco_0001", "Abel_Pacheco/Abel_Pacheco_0004", True, 0, "", 2),
        NamedPair("Abdel_Madi_Shabneh/Abdel_Madi_Shabneh_0001", "Dean_Barker/Dean_Barker_0001", False, 0, "", 3),
        NamedPair("Akhmed_Zakayev/Akhmed_Zakayev_0001", "Akhmed_Zakayev/Akhmed_Zakayev_0003", True, 1, "", 4),
        NamedPair("A/A_0002", "B/B_0010", False, 1, "", 5),
    )


def test_the_list_of_view_1_has_no_folds_and_its_pairs_are_dealt_out_to_ten(tmp_path: Path) -> None:
    genuine = [f"P{number} 1 2" for number in range(20)]
    impostor = [f"P{number} 1 Q{number} 1" for number in range(20)]
    pairs = read_pairs(_write(tmp_path / "pairsDevTest.txt", "\n".join(["20", *genuine, *impostor])))
    photos = [f"P{number}/P{number}_000{take}.jpg" for number in range(20) for take in (1, 2)]
    photos += [f"Q{number}/Q{number}_0001.jpg" for number in range(20)]

    found, compared = resolve(pairs, photos, (), Path("pairsDevTest.txt"))

    assert {pair.fold for pair in pairs} == {None}
    assert compared.all()
    assert [photos[row] for row in (found.first[0], found.second[0])] == ["P0/P0_0001.jpg", "P0/P0_0002.jpg"]
    assert [photos[row] for row in (found.first[25], found.second[25])] == ["P5/P5_0001.jpg", "Q5/Q5_0001.jpg"]
    for fold in range(10):
        assert found.same[found.fold == fold].tolist().count(True) == 2
        assert found.same[found.fold == fold].tolist().count(False) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'line 1: a list of LFW begins with "FOLDS PAIRS"'),
        ("A 1 2\n", "line 1"),
        ("1\nA 1\nA 1 B 1\n", "line 2: expected \"NAME I J\", got 'A 1'"),
        ("1\nA 1 2\nA 1 B\n", "line 3: expected \"NAME I NAME J\", got 'A 1 B'"),
        ("1\nA 1 two\nA 1 B 1\n", "line 2"),
        ("1\nA 1 2\nA 1 A 2\n", "line 3"),
        ("1\nA 1 99999999999\nA 1 B 1\n", "line 2"),
        ("2 1\nA 1 2\nA 1 B 1\n", "its header promises 4 pairs, there are 2"),
        ("0\n", "promises 0 pairs"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_number(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path / "pairs.txt", text)

    with pytest.raises(DataError) as error:
        read_pairs(path)

    assert str(path) in error.value.message
    assert message in error.value.message
    assert "\n" not in error.value.message


def test_csv_has_photos_the_answer_and_perhaps_fold_and_group(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        rows = [("same", "photo_a", "photo_b", "group", "fold"), ("1", "a/1.jpg", "a/2.jpg", "old, tall", "3")]
        csv.writer(file).writerows([*rows, ("no", "a/1.jpg", "b/1.png", "young", "0")])

    pairs = read_pairs(path)

    assert pairs == (
        NamedPair("a/1.jpg", "a/2.jpg", True, 3, "old, tall", 2),
        NamedPair("a/1.jpg", "b/1.png", False, 0, "young", 3),
    )
    found, _ = resolve(pairs, ["b/1.png", "a/1.jpg", "a/2.jpg"], (), path)
    assert (found.first.tolist(), found.second.tolist()) == ([1, 1], [2, 0])
    assert found.fold.tolist() == [3, 0]
    assert found.groups == ("old, tall", "young")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo_a,same\na,1\n", "line 1: there is no column photo_b"),
        ("photo_a,photo_b,same\n", "holds no pairs"),
        ("photo_a,photo_b,same\na,b,perhaps\n", "line 2: same must be 1 or 0, got 'perhaps'"),
        ("photo_a,photo_b,same\na,b,1\na,,1\n", "line 3: expected two photos"),
        ("photo_a,photo_b,same\na,b,1,2\n", "line 2: expected two photos"),
        ("photo_a,photo_b,same,fold\na,b,1,first\n", "line 2: fold must be a whole number, got 'first'"),
    ],
)
def test_a_wrong_line_of_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=r"pairs\.csv") as error:
        read_pairs(_write(tmp_path / "pairs.csv", text))

    assert message in error.value.message


def test_a_photo_that_is_not_in_the_data_is_named_and_one_without_a_face_is_not_compared(tmp_path: Path) -> None:
    path = _write(tmp_path / "pairs.csv", "photo_a,photo_b,same\na/1.jpg,a/2.jpg,1\na/1.jpg,b/1.jpg,0\n")
    pairs = read_pairs(path)

    found, compared = resolve(pairs, ["a/1.jpg", "b/1.jpg"], ["a/2.jpg"], path)

    assert compared.tolist() == [False, True]
    assert len(found) == 2
    with pytest.raises(DataError, match=r"line 2: the data have no photo 'a/2\.jpg'"):
        resolve(pairs, ["a/1.jpg", "b/1.jpg"], (), path)


def test_a_dot_in_a_name_is_no_suffix() -> None:
    pairs = (NamedPair("A.J._Cook/A.J._Cook_0001", "A.J._Cook/A.J._Cook_0002", True, 0, "", 2),)
    photos = ["A.J._Cook/A.J._Cook_0002.jpg", "A.J._Cook/A.J._Cook_0001.jpg"]

    found, _ = resolve(pairs, photos, (), Path("pairs.txt"))

    assert (found.first.tolist(), found.second.tolist()) == ([1], [0])


def test_two_photos_that_differ_in_their_suffix_alone_are_two() -> None:
    pairs = (NamedPair("a/1.png", "a/1.jpg", True, 0, "", 2),)

    found, _ = resolve(pairs, ["a/1.jpg", "a/1.png"], (), Path("pairs.csv"))

    assert (found.first.tolist(), found.second.tolist()) == ([1], [0])


def test_files_that_are_no_text_or_not_there_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_pairs(tmp_path / "pairs.txt")
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.txt: No such file"):
        read_pairs(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="holds photos and pairs in one: give it to --data"):
        read_pairs(tmp_path / "lfw.bin")
