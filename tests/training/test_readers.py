"""Readers of labelled photos: lists, shards and RecordIO; whatever the bytes, photos or one clear line."""

import io
import json
import struct
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.people import DataError, Photo
from training.data.photos import read_photos, source_files
from training.data.recordio import MAGIC, read_records

_MAGIC = struct.pack("<I", MAGIC)


def _problem(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_photos(path))
    assert "\n" not in caught.value.message
    return caught.value.message


def _written(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [folder / name for name in names]


# Files of a source ----------------------------------------------------------------------------------------------------


def test_the_files_of_a_folder_are_its_photos_and_nothing_else_in_it(tmp_path: Path) -> None:
    photos = _written(tmp_path, "ann/1.jpg", "bob/1.PNG")
    _written(tmp_path, "ann/notes.txt", "job/report.html", "job/stages/align/1.png", "1.png")

    assert source_files(tmp_path) == photos


def test_the_files_of_a_list_are_the_list_and_the_photos_it_names_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (elsewhere,) = _written(tmp_path, "elsewhere/1.jpg")
    _written(tmp_path, "lists/other.jpg")
    path = tmp_path / "lists" / "list.csv"
    path.write_text(f"path,person\na.jpg,ann\n{elsewhere},bob\n")  # a.jpg is not there

    assert source_files(path) == [path, path.parent / "a.jpg", elsewhere]


def test_the_files_of_shards_are_the_archives_of_the_pattern(tmp_path: Path) -> None:
    shards = _written(tmp_path, "part-0.tar", "part-1.tar")
    _written(tmp_path, "whole.tar.partial", "job/report.html")

    assert source_files(tmp_path / "part-*.tar") == shards
    assert source_files(tmp_path) == shards


def test_the_files_of_records_are_the_file_and_its_index(tmp_path: Path) -> None:
    record, index = _written(tmp_path, "train.rec", "train.idx")
    _written(tmp_path, "property")

    assert source_files(tmp_path) == [record, index]


def test_a_pattern_that_a_folder_matches_is_one_clear_line(tmp_path: Path) -> None:
    _written(tmp_path, "set-1/ann/1.jpg")

    assert "set-1: a pattern names files, and this is a folder" in _problem(tmp_path / "set-*")


# Folder and tar -------------------------------------------------------------------------------------------------------


def _tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_and_a_tar_of_it_are_told_from_the_other_layouts(tmp_path: Path) -> None:
    (tmp_path / "people" / "ann").mkdir(parents=True)
    (tmp_path / "people" / "ann" / "1.jpg").write_bytes(b"one")
    archive = _tar(tmp_path / "people.tar", {"ann/1.jpg": b"one"})

    expected = [Photo("ann", "ann/1.jpg", b"one")]
    assert list(read_photos(tmp_path / "people")) == list(read_photos(archive)) == expected


def test_a_name_that_is_no_utf8_is_escaped(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "people.tar", {"Jos\udce9/1.jpg": b"one"})

    assert [(photo.person, photo.name) for photo in read_photos(archive)] == [("Jos\\udce9", "Jos\\udce9/1.jpg")]


def test_what_is_none_of_the_layouts_is_told_which_there_are(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "photos.txt"
    text.write_text("hello")

    for path in (empty, text, tmp_path / "nowhere", tmp_path / "*.tar"):
        message = _problem(path)
        assert str(path) in message
        assert "PERSON/PHOTO.jpg" in message or "no photos in the layout" in message


def test_a_folder_of_archives_and_records_is_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "a.rec").write_bytes(b"")

    assert "name one of them" in _problem(tmp_path)


# CSV ------------------------------------------------------------------------------------------------------------------


def _list(root: Path, text: str) -> Path:
    (root / "a.jpg").write_bytes(b"a")
    (root / "sub").mkdir(exist_ok=True)
    (root / "sub" / "b, c.png").write_bytes(b"bc")
    path = root / "list.csv"
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_gives_photos_in_its_order_with_other_columns_as_groups(tmp_path: Path, end: str, mark: str) -> None:
    path = _list(tmp_path, end.join([mark + "sex,path,person", 'f,"sub/b, c.png",Zoë', "", "m,a.jpg,adam", ""]))

    assert list(read_photos(path)) == [
        Photo("Zoë", "sub/b, c.png", b"bc", {"sex": "f"}),
        Photo("adam", "a.jpg", b"a", {"sex": "m"}),
    ]


def test_an_absolute_path_in_a_list_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.jpg").write_bytes(b"else")
    (tmp_path / "lists").mkdir()
    path = _list(tmp_path / "lists", f"path,person\n{tmp_path / 'elsewhere.jpg'},ann\n")

    assert [photo.data for photo in read_photos(path)] == [b"else"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header must name the columns path and person"),
        ("a.jpg,ann\n", "line 1: the header must name the columns path and person, got 'a.jpg,ann'"),
        ("path,person,sex,sex\n", "line 1: a column's name is empty or there twice: 'sex'"),
        ("path,person,\n", "line 1: a column's name is empty"),
        ("path,person\na.jpg,ann\na.jpg\n", "line 3: 1 cells for 2 columns"),
        ("path,person\na.jpg,ann,x\n", "line 2: 3 cells for 2 columns"),
        ("path,person\na.jpg,\n", "line 2: path and person must not be empty"),
        ("path,person\nno.jpg,ann\n", "line 2: cannot read no.jpg: No such file"),
        ("path,person\nsub,ann\n", "line 2: cannot read sub: Is a directory"),
        ('path,person\n"a.jpg,ann\n', "line 2: unexpected end of data"),
        ("path,person\na\0.jpg,ann\n", "line 2"),
        ("path,person\n", "holds no photos"),
    ],
)
def test_a_mistake_in_a_list_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = _list(tmp_path, text)

    assert message in (told := _problem(path))
    assert str(path) in told


def test_a_list_that_is_no_utf8_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,person\n\xff\xfe.jpg,ann\n")

    assert "is not a list in UTF-8" in _problem(path)


# Tar shards -----------------------------------------------------------------------------------------------------------

SHARD = {
    "000.jpg": b"zero",
    "000.cls": b"7\n",
    "001.json": json.dumps({"label": 7, "groups": {"sex": "f"}}).encode(),
    "001.png": b"one",
    "x/002.JPG": b"two",
    "x/002.json": json.dumps({"person": "ann", "label": 3}).encode(),
    "x/002.txt": b"a caption",
    "x/002.seg.png": b"a mask",
}
EXPECTED = [
    Photo("7", "000.jpg", b"zero"),
    Photo("7", "001.png", b"one", {"sex": "f"}),
    Photo("ann", "x/002.JPG", b"two"),
]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_shard_gives_its_samples(tmp_path: Path, mode: str) -> None:
    assert list(read_photos(_tar(tmp_path / "a.tar", SHARD, mode))) == EXPECTED


def test_shards_of_a_folder_or_a_glob_are_read_in_sorted_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        _tar(tmp_path / f"part-{number}.tar", {"k.jpg": b"photo", "k.cls": str(number).encode()})

    for path in (tmp_path, tmp_path / "part-*.tar"):
        assert [photo.person for photo in read_photos(path)] == ["0", "1", "2"]
    assert [photo.person for photo in read_photos(tmp_path / "part-[12].tar")] == ["1", "2"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"b.jpg": b"b"}, "sample b has no label"),
        ({"b.jpg": b"b", "b.cls": b" \n"}, "sample b has no label"),
        ({"b.jpg": b"b", "b.cls": b"\xff"}, "the label of sample b is damaged"),
        ({"b.jpg": b"b", "b.json": b"{"}, "the label of sample b is damaged"),
        ({"b.jpg": b"b", "b.json": b"[" * 100_000}, "the label of sample b is damaged"),
        ({"b.jpg": b"b", "b.json": b"[1]"}, "the label of sample b is damaged"),
        ({"b.jpg": b"b", "b.json": b"{}"}, "sample b has no label"),
        ({"b.jpg": b"b", "b.json": b'{"label": 1.5}'}, "sample b has no label"),
        ({"b.jpg": b"b", "b.json": b'{"label": true}'}, "sample b has no label"),
        ({"b.jpg": b"b", "b.json": b'{"label": 1, "groups": {"age": 3}}'}, "the groups of sample b"),
        ({"b.jpg": b"b", "b.png": b"b", "b.cls": b"1"}, "sample b has 2 photos"),
        ({"b.cls": b"1"}, "sample b has 0 photos"),
    ],
)
def test_a_damaged_sample_is_told_with_shard_and_key(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    path = _tar(tmp_path / "a.tar", {"a.jpg": b"a", "a.cls": b"1", **files})

    assert message in (told := _problem(path))
    assert str(path) in told


def test_a_shard_that_is_cut_off_is_named_among_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _tar(tmp_path / f"{name}.tar", {f"{key}.{kind}": b"1" * 3000 for key in "xyz" for kind in ("jpg", "cls")})
    cut = tmp_path / "b.tar"
    cut.write_bytes(cut.read_bytes()[:20_000])

    assert str(cut) in _problem(tmp_path)


# RecordIO -------------------------------------------------------------------------------------------------------------


def _part(flag: int, data: bytes) -> bytes:
    return _MAGIC + struct.pack("<I", flag << 29 | len(data)) + data + bytes(-len(data) % 4)


def _framed(data: bytes) -> bytes:
    """A record as the format's writer splits it: at each aligned place that looks like a magic."""
    parts, begin = [], 0
    for place in range(0, len(data) // 4 * 4, 4):
        if data[place : place + 4] == _MAGIC:
            parts.append(data[begin:place])
            begin = place + 4
    parts.append(data[begin:])
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(_part(flag, part) for flag, part in zip(flags, parts, strict=True))


def _record(labels: float | list[float], data: bytes, number: int = 0) -> bytes:
    if isinstance(labels, list):
        packed = struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0.0, number, 0, *labels)
    else:
        packed = struct.pack("<IfQQ", 0, labels, number, 0)
    return _framed(packed + data)


def _write(path: Path, records: list[bytes], index: bool = False) -> Path:
    path.write_bytes(b"".join(records))
    if index:
        offsets = [sum(map(len, records[:number])) for number in range(len(records))]
        lines = [f"{number}\t{offset}\n" for number, offset in enumerate(offsets)]
        path.with_suffix(".idx").write_text("".join(lines))
    return path


FACES = [_record([4, 6], b""), *[_record(label, b"photo" * (n + 1)) for n, label in enumerate([5.0, [5.0, 1.0], 0.0])]]
IDENTITIES = [_record([1, 3], b""), _record([3, 4], b"")]
INSIGHTFACE = [*FACES, *IDENTITIES]
RECORDS = [Photo("5", "5/1", b"photo"), Photo("5", "5/2", b"photo" * 2), Photo("0", "0/3", b"photo" * 3)]


@pytest.mark.parametrize("index", [True, False])
def test_the_photos_of_insightfaces_layout_come_without_the_records_that_are_none(tmp_path: Path, index: bool) -> None:
    path = _write(tmp_path / "train.rec", INSIGHTFACE, index)

    assert list(read_photos(path)) == list(read_photos(tmp_path)) == RECORDS


def test_a_file_without_a_header_record_is_read_from_its_first_record(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.rec", [_record(3.0, b"x"), _record(16_777_216.0, b"y")])

    assert [(photo.person, photo.name) for photo in read_photos(path)] == [("3", "3/0"), ("16777216", "16777216/1")]


def test_the_index_decides_the_order(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.rec", [_record(1.0, b"x"), _record(2.0, b"yy")])
    second = len(_record(1.0, b"x"))
    (tmp_path / "a.idx").write_text(f"7\t0\n5\t{second}\n")

    assert [(photo.name, photo.data) for photo in read_photos(path)] == [("2/5", b"yy"), ("1/7", b"x")]


@given(pieces=st.lists(st.one_of(st.just(_MAGIC), st.binary(max_size=9)), max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_photo_with_the_magic_in_it_comes_back_whole(
    pieces: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = b"".join(pieces)
    path = tmp_path_factory.getbasetemp() / "magic.rec"
    _write(path, [_record(1.0, data), _record(2.0, b"after")])

    assert [photo.data for photo in read_records(path)] == [data, b"after"]


@pytest.mark.parametrize("index", [True, False])
def test_a_file_cut_off_anywhere_is_one_clear_line(tmp_path: Path, index: bool) -> None:
    path = _write(tmp_path / "train.rec", FACES, index)
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert str(path) in _problem(path)


def test_a_file_cut_off_between_two_records_is_told_by_the_number_in_its_header(tmp_path: Path) -> None:
    assert "is cut off: it should hold 3 photos, it holds 2" in _problem(_write(tmp_path / "a.rec", FACES[:-1]))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([_record(1.0, b"x"), b"\0" * 8], "is damaged or no RecordIO file: there is no record at byte 36"),
        ([_part(5, b"x" * 40)], "there is no record at byte 0"),
        ([_part(0, b"x" * 20)], "the record at byte 0 has no header"),
        ([_part(2, b"x" * 40)], "a part is missing in the record at byte 0"),
        ([_part(1, b"x" * 40), _part(0, b"x" * 40)], "a part is missing in the record at byte 0"),
        ([_part(1, b"x" * 40)], "is cut off in the record at byte 0"),
        ([_MAGIC + struct.pack("<I", 2**29 - 1)], "is cut off in the record at byte 0"),
        ([_part(0, struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0))], "is shorter than its 4294967295 labels"),
        ([_record(1.5, b"x")], "the record at byte 0 has the label 1.5"),
        ([_record(-1.0, b"x")], "has the label -1.0"),
        ([_record(float("nan"), b"x")], "has the label nan"),
        ([_record(float("inf"), b"x")], "has the label inf"),
        ([], "holds no photos"),
    ],
)
def test_a_damaged_record_is_told_with_its_place(tmp_path: Path, records: list[bytes], message: str) -> None:
    path = _write(tmp_path / "a.rec", records)

    assert message in (told := _problem(path))
    assert str(path) in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\t0\nx\t5\n", "a.idx, line 2: not a number, a tab and an offset"),
        ("0 0\n", "a.idx, line 1"),
        ("0\t-4\n", "a.idx, line 1"),
        ("0\t99999999999999999999\n", "a.idx, line 1"),
        ("0\t999999\n", "is cut off: by its index record 0 begins at byte 999999"),
        ("0\t4\n", "there is no record at byte 4"),
        ("²\t0\n", "cannot read"),
        ("", "holds no photos"),
    ],
)
def test_a_damaged_index_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path / "a.rec", [_record(1.0, b"x")])
    (tmp_path / "a.idx").write_text(text, encoding="utf-8")

    assert message in _problem(path)


_PARTS = st.builds(
    lambda magic, word, data: magic + struct.pack("<I", word) + data,
    st.sampled_from([_MAGIC, b"nope"]),
    st.one_of(st.integers(0, 2**32 - 1), st.builds(lambda f, n: f << 29 | n, st.integers(0, 4), st.integers(0, 64))),
    st.binary(max_size=64),
)
_GOOD = st.builds(_record, st.one_of(st.floats(width=32), st.lists(st.floats(width=32), max_size=3)), st.binary())


@given(
    pieces=st.lists(st.one_of(_GOOD, _PARTS, st.binary(max_size=40)), max_size=6),
    index=st.one_of(st.none(), st.binary(max_size=20), st.from_regex(rb"([0-3]\t[0-9]{1,2}\n){0,4}", fullmatch=True)),
)
@settings(max_examples=250, deadline=None)
def test_any_bytes_end_in_photos_or_one_clear_line(
    pieces: list[bytes], index: bytes | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.rec"
    path.write_bytes(b"".join(pieces))
    if index is None:
        path.with_suffix(".idx").unlink(missing_ok=True)
    else:
        path.with_suffix(".idx").write_bytes(index)
    photos: list[Photo] = []
    problem = ""
    try:
        photos = list(read_photos(path))
    except DataError as error:
        problem = error.message

    assert bool(photos) != bool(problem)
    assert "\n" not in problem
    assert all(photo.person.isdigit() for photo in photos)
