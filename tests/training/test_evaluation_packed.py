"""insightface's .bin files: what is read, and that nothing in one is ever run."""

import contextlib
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.errors import DataError
from training.evaluation.packed import read_packed

PHOTOS = [b"\xff\xd8 one", b"\x89PNG two", b"three\x00", b"\xe9\xa9 four"]


class _Calls:
    """Pickles to a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


def _write(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_packed(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_photos_and_pairs_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    packed = read_packed(_write(tmp_path / "a.bin", (PHOTOS, [True, False]), protocol))

    assert packed.photos == tuple(PHOTOS)
    assert packed.same.tolist() == [True, False]


def test_a_file_of_python_2_is_read(tmp_path: Path) -> None:
    """Its strings are bytes, written by instructions that Python 3 reads but does not write."""
    strings = b"".join(b"U" + bytes([len(photo)]) + photo for photo in PHOTOS)
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02](" + strings + b"e](\x88\x89e\x86.")

    packed = read_packed(path)

    assert packed.photos == tuple(PHOTOS)
    assert packed.same.tolist() == [True, False]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_and_truth_values_of_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    arrays = [np.frombuffer(photo, np.uint8).copy() for photo in PHOTOS]
    for number, same in enumerate(([np.bool_(True), np.bool_(False)], np.array([True, False]))):
        packed = read_packed(_write(tmp_path / f"{number}.bin", (arrays, same), protocol))

        assert packed.photos == tuple(PHOTOS)
        assert packed.same.tolist() == [True, False]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bytearrays_and_answers_of_one_and_zero_are_read(tmp_path: Path, protocol: int) -> None:
    packed = read_packed(_write(tmp_path / "a.bin", ([bytearray(photo) for photo in PHOTOS], [1, 0]), protocol))

    assert packed.photos == tuple(PHOTOS)
    assert packed.same.tolist() == [True, False]


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.truncate(4 * 2**30 + 1)  # sparse: takes no room

    assert "is larger than 4 GiB" in _refusal(path)


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_short_file_that_names_one_long_photo_often_takes_no_more_memory_than_the_limit(
    tmp_path: Path, kind: type, protocol: int
) -> None:
    long = kind(2**20)

    path = _write(tmp_path / "a.bin", ([long] * 5000, [True] * 2500), protocol)

    assert path.stat().st_size < 2**22
    assert "its photos have more than 4 GiB" in _refusal(path)


def test_one_text_that_is_encoded_often_is_held_once(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    once = b"c_codecs\nencode\nq\x00" + text + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86R"
    again = b"h\x00h\x01h\x02\x86R"
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02](" + once + again * 99_999 + b"e](" + b"\x88" * 50_000 + b"e\x86.")

    assert "its photos have more than 4 GiB" in _refusal(path)


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_arrays_of_older_and_newer_numpy_are_read(tmp_path: Path, core: bytes) -> None:
    data = pickle.dumps(([np.frombuffer(photo, np.uint8).copy() for photo in PHOTOS], [True, False]), 2)
    path = tmp_path / "a.bin"
    path.write_bytes(data.replace(b"cnumpy._core.", b"cnumpy." + core + b"."))

    assert read_packed(path).photos == tuple(PHOTOS)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["system", "eval", "mkdir"])
def test_a_malicious_file_is_refused_in_one_line_and_nothing_is_run(tmp_path: Path, protocol: int, name: str) -> None:
    mark = tmp_path / "mark"
    call = {
        "system": _Calls(os.system, f"touch {mark}"),
        "eval": _Calls(eval, f"__import__('os').mkdir({str(mark)!r})"),
        "mkdir": _Calls(os.mkdir, str(mark)),
    }[name]
    path = _write(tmp_path / "a.bin", (PHOTOS, [True, call]), protocol)

    message = _refusal(path)

    assert "refused: it would call" in message
    assert f".{name}" in message
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the file does what it says
    assert mark.exists()


def test_a_module_that_is_named_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"cantigravity\nfly\n)R.")
    code = (
        "import sys, pathlib\nfrom training.evaluation.packed import read_packed\n"
        "try:\n    read_packed(pathlib.Path(sys.argv[1]))\nexcept Exception as error:\n    print(error)\n"
        "print('antigravity' in sys.modules)"
    )

    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)

    message, imported = run.stdout.splitlines()
    assert "refused: it would call antigravity.fly" in message
    assert imported == "False"


@pytest.mark.parametrize(
    "program",
    [
        b"c_codecs\nencode\n}(X\x04\x00\x00\x00evilX\x01\x00\x00\x00aub.",  # BUILD would set an attribute of it
        b"cnumpy\ndtype\n}(X\x04\x00\x00\x00evilX\x01\x00\x00\x00aub.",
        b"cnumpy\nndarray\n(N}(X\x07\x00\x00\x00__doc__X\x01\x00\x00\x00autb.",
    ],
)
def test_what_a_file_may_call_it_may_not_change(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02" + program)

    assert "refused: it changes what it calls" in _refusal(path)


@pytest.mark.parametrize(
    ("program", "instruction"),
    [
        (b"(lPos.system\nQ.", "PERSID"),
        (b"(S'id'\nios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nS'id'\no.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    ],
)
def test_instructions_that_such_a_file_does_not_need_are_refused(
    tmp_path: Path, program: bytes, instruction: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(program)

    assert f"refused: it has the pickle instruction {instruction}" in _refusal(path)


def test_a_place_in_the_memo_that_would_cost_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".")

    assert "places of memory" in _refusal(path)


def test_an_array_of_objects_or_of_numbers_is_refused(tmp_path: Path) -> None:
    for kind in (object, np.float64):
        path = _write(tmp_path / "a.bin", ([np.zeros(3, kind)] * 2, [True]))

        assert "not of bytes or truth values" in _refusal(path)


def test_every_cut_of_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    whole = pickle.dumps((PHOTOS, [True, False]), 4)
    path = tmp_path / "a.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        _refusal(path)


def test_damage_anywhere_never_ends_in_another_error(tmp_path: Path) -> None:
    whole = bytearray(pickle.dumps(([np.frombuffer(photo, np.uint8).copy() for photo in PHOTOS], [True, False]), 2))
    rng = np.random.default_rng(0)
    path = tmp_path / "a.bin"
    for _ in range(400):
        broken = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        with contextlib.suppress(DataError):
            packed = read_packed(path)
            assert len(packed.photos) == 2 * len(packed.same)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((PHOTOS, [True]), "4 photos for 1 pairs"),
        (([], []), "0 photos for 0 pairs"),
        ((PHOTOS, ["yes", "no"]), "does not say whether pairs are of one person"),
        ((PHOTOS, 2), "does not say whether pairs are of one person"),
        ((["text", b"", b"", b""], [True, False]), "one of its photos is no image file"),
        ({"a": 1}, "no photos and pairs"),
        (PHOTOS, "no photos and pairs"),
    ],
)
def test_another_content_is_told(tmp_path: Path, value: object, said: str) -> None:
    assert said in _refusal(_write(tmp_path / "a.bin", value))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in _refusal(tmp_path / "a.bin")


def test_the_malicious_files_here_are_whole_pickles() -> None:
    """So that they are refused for what they do and not for being damaged."""
    program = pickle.dumps((PHOTOS, [True, _Calls(os.system, "true")]), 4)

    assert [opcode.name for opcode, _, _ in pickletools.genops(program)][-1] == "STOP"
