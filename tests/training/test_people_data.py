"""Readers of labelled photos: a folder, and a tar archive of one."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from training.data.people import DataError, Photo, read_people

FILES = {
    "zoe/2.jpg": b"zoe two",
    "zoe/10.JPEG": b"zoe ten",
    "adam/a.png": b"adam a",
    "adam/b.webp": b"adam b",
    "adam/c.bmp": b"adam c",
}


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _tar(files: dict[str, bytes], mode: str = "w", prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def _problem(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_people(path))
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_folder_is_read_by_person_and_name_with_each_file_whole(tmp_path: Path) -> None:
    photos = list(read_people(_folder(tmp_path, FILES)))

    assert photos == [
        Photo("adam", "adam/a.png", b"adam a"),
        Photo("adam", "adam/b.webp", b"adam b"),
        Photo("adam", "adam/c.bmp", b"adam c"),
        Photo("zoe", "zoe/10.JPEG", b"zoe ten"),
        Photo("zoe", "zoe/2.jpg", b"zoe two"),
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "./", "set/"])
def test_a_tar_of_a_folder_reads_as_the_folder_does(tmp_path: Path, mode: str, prefix: str) -> None:
    folder = _folder(tmp_path / "people", FILES)
    archive = tmp_path / "people.tar"
    archive.write_bytes(_tar(dict(sorted(FILES.items())), mode, prefix))

    assert list(read_people(archive)) == list(read_people(folder))


def test_a_tar_made_of_a_folder_on_disk_reads_as_the_folder_does(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "people", {name: data for name, data in FILES.items() if "10" not in name})
    path = tmp_path / "people.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname="people")

    assert sorted(read_people(path), key=lambda photo: photo.name) == list(read_people(folder))


def test_what_is_no_photo_of_a_person_is_passed_over(tmp_path: Path) -> None:
    others = {"adam/notes.txt": b"text", "readme.jpg": b"belongs to nobody", "adam/deep/er.gif": b"not accepted"}
    folder = _folder(tmp_path / "people", {**FILES, **others})
    (folder / "adam" / "folder.jpg").mkdir()
    archive = tmp_path / "people.tar"
    archive.write_bytes(_tar({**FILES, **others}))

    assert {photo.name for photo in read_people(folder)} == set(FILES)
    assert {photo.name for photo in read_people(archive)} == set(FILES)


@pytest.mark.parametrize("files", [{}, {"photo.jpg": b"belongs to nobody"}, {"adam/notes.txt": b"text"}])
def test_a_set_without_photos_of_people_is_one_clear_line(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    archive = tmp_path / "people.tar"
    archive.write_bytes(_tar(files))

    assert "holds no photos in the layout PERSON/PHOTO.jpg" in _problem(_folder(folder, files))
    assert "holds no photos in the layout PERSON/PHOTO.jpg" in _problem(archive)


@pytest.mark.parametrize("data", [b"", b"hello world" * 1000, b"\xff\xd8\xff" + bytes(2000)])
def test_a_file_that_is_no_archive_is_one_clear_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "people.tar"
    path.write_bytes(data)

    assert "cannot read" in _problem(path)


def test_a_path_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    assert "No such file" in _problem(tmp_path / "nowhere.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_tar_that_is_cut_off_is_one_clear_line(tmp_path: Path, mode: str, share: float) -> None:
    whole = _tar({f"p{number}/1.jpg": _noise(4000) + bytes([number]) for number in range(10)}, mode)
    path = tmp_path / "people.tar"
    path.write_bytes(whole[: int(len(whole) * share)])

    assert "cannot read" in _problem(path)


def test_a_tar_that_is_cut_off_right_between_two_photos_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    member = 512 + 1024  # a header and two blocks
    whole = _tar({f"p{number}/1.jpg": _noise(1000) for number in range(5)})
    path = tmp_path / "people.tar"
    path.write_bytes(whole[: 3 * member])

    assert "damaged or cut off" in _problem(path)


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    member = 512 + 1024
    whole = bytearray(_tar({f"p{number}/1.jpg": _noise(1000) for number in range(5)}))
    whole[3 * member : 3 * member + 512] = _noise(512)
    path = tmp_path / "people.tar"
    path.write_bytes(whole)

    assert "damaged or cut off" in _problem(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_with_damaged_bytes_is_one_clear_line(tmp_path: Path, mode: str) -> None:
    noise = _noise(200_000)
    files = {f"p{number}/1.jpg": noise[number * 20_000 : (number + 1) * 20_000] for number in range(10)}
    whole = bytearray(_tar(files, mode))
    middle = len(whole) // 2
    whole[middle : middle + 50] = bytes(byte ^ 0x55 for byte in whole[middle : middle + 50])
    path = tmp_path / "people.tar"
    path.write_bytes(whole)

    assert "cannot read" in _problem(path)


def test_a_gzip_stream_that_goes_wrong_within_a_photo_is_one_clear_line(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(_tar({"adam/a.jpg": _noise(200_000)}), compresslevel=0))
    first = 10  # a stored block: one byte with its type, two with its length, two with that inverted
    second = first + 5 + int.from_bytes(packed[first + 1 : first + 3], "little")
    packed[second] = 0b110  # a type that does not exist
    path = tmp_path / "people.tar.gz"
    path.write_bytes(packed)

    assert "cannot read" in _problem(path)


def test_a_gzip_stream_of_which_only_the_checksum_is_wrong_is_one_clear_line(tmp_path: Path) -> None:
    """The checksum is the last thing in the file, far behind the last photo."""
    packed = bytearray(gzip.compress(_tar({"adam/a.jpg": _noise(20_000)}) + bytes(2**21), compresslevel=0))
    packed[2000] ^= 1  # within the photo, which is stored as it is
    path = tmp_path / "people.tar.gz"
    path.write_bytes(packed)

    assert "CRC" in _problem(path)


def test_photos_are_read_one_at_a_time(tmp_path: Path) -> None:
    folder = _folder(tmp_path, FILES)
    photos = read_people(folder)
    first = next(photos)
    (folder / "zoe" / "2.jpg").write_bytes(b"changed since")

    assert first.data == b"adam a"
    assert list(photos)[-1].data == b"changed since"
