"""insightface's .bin files: aligned crops and pairs in one pickle, ([photo, ...], [same, ...]).

Photos 2k and 2k + 1 are pair k.

A pickle is a program. This one is run by an interpreter that knows lists, bytes and truth values, and a few names of
NumPy and of Python 2 for which harmless stand-ins are put: nothing that a file names is ever imported or called.
"""

import functools
import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError

_MAX_BYTES = 4 * 2**30
_MAX_PHOTOS = 2_000_000
# Opcodes that build lists, tuples, dictionaries, numbers and text; GLOBAL and REDUCE meet the stand-ins only.
_ALLOWED = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"),
        *(
            "GET",
            "BINGET",
            "LONG_BINGET",
            "NONE",
            "NEWTRUE",
            "NEWFALSE",
            "INT",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
        ),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
_PUTS = frozenset(("PUT", "LONG_BINPUT"))
_BYTE_TYPES = frozenset(("u1", "uint8"))
_TRUTH_TYPES = frozenset(("b1", "bool", "bool_"))


class PackedRefusedError(DataError):
    """The file is no .bin of photos and pairs, or does what such a file has no need to do."""


@dataclass(frozen=True, slots=True)
class Packed:
    """2P photos as image files, whether each of the P pairs is of one person."""

    photos: tuple[bytes, ...]
    same: NDArray[np.bool_]


def read_packed(path: Path) -> Packed:
    """A .bin file, without running what is in it.

    Raises:
        DataError: it cannot be read, is too large, names anything that such a file does not need, or is damaged.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES // 2**30} GiB")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        _check_program(data)
        return _checked(_Unpickler(data).load())
    except PackedRefusedError as error:
        raise DataError(f"{path}: {error.message}") from error
    except Exception as error:  # whatever a damaged pickle may raise
        raise DataError(f"{path} is no .bin of photos and pairs, or it is damaged") from error


def _check_program(data: bytes) -> None:
    """Look at every instruction before the first is run: also a place in the memo costs memory."""
    argument: Any
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in _ALLOWED:
            raise PackedRefusedError(f"refused: it has the pickle instruction {opcode.name} at byte {position}")
        if opcode.name in _PUTS and not 0 <= int(argument) <= len(data):
            raise PackedRefusedError(f"refused: it asks for {argument} places of memory at byte {position}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        # A short program may encode one long text again and again: it gets the same bytes, and no copy.
        self._encode = _StandIn(functools.cache(_encode))

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name; nothing is imported."""
        if (module, name) not in _STAND_INS:
            raise PackedRefusedError(f"refused: it would call {module}.{name}, which no list of photos needs"[:200])
        return self._encode if (module, name) == ("_codecs", "encode") else _STAND_INS[module, name]


class _StandIn:
    """Something a pickle may call, and may not change: BUILD would otherwise write into its attributes."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise PackedRefusedError("refused: it changes what it calls")


class _Type:
    """numpy.dtype: only its name."""

    __slots__ = ("name",)

    def __init__(self, name: object, *_: object) -> None:
        text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        self.name = text.lstrip("|<=")
        if self.name not in _BYTE_TYPES | _TRUTH_TYPES:
            raise PackedRefusedError(f"refused: it has an array of {text[:20]!r}, not of bytes or truth values")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment: of no meaning for single bytes."""


class _Array:
    """numpy.ndarray of one-byte values: only its bytes."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self.data = data

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, kind, _, data = state
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise PackedRefusedError("refused: it has an array of objects")
        self.data = data


def _encode(text: str, encoding: object = "latin1") -> bytes:
    """_codecs.encode, by which Python 3 writes bytes for Python 2."""
    return text.encode("latin-1")


def _bytearray(data: str | bytes = b"", encoding: object = "latin1") -> bytes:
    """Written as text by protocols 0 to 2, as bytes by 3 and 4."""
    return data if isinstance(data, bytes) else _encode(data)


def _from_buffer(data: bytes | bytearray, kind: _Type, *_: object) -> _Array:
    return _Array(data)


def _scalar(kind: _Type, data: bytes) -> bool:
    return any(data)


_STAND_INS: dict[tuple[str, str], Any] = {("_codecs", "encode"): _StandIn(_encode)} | {
    (f"numpy.{core}.multiarray", name): _StandIn(call)
    for core in ("core", "_core")
    for name, call in (("_reconstruct", lambda *_: _Array()), ("scalar", _scalar))
}
_STAND_INS |= {(f"numpy.{core}.numeric", "_frombuffer"): _StandIn(_from_buffer) for core in ("core", "_core")}
_STAND_INS |= {("numpy", "dtype"): _StandIn(_Type), ("numpy", "ndarray"): _StandIn(_Array)}
_STAND_INS |= {(module, "bytes"): _StandIn(lambda *_: b"") for module in ("builtins", "__builtin__")}
_STAND_INS |= {(module, "bytearray"): _StandIn(_bytearray) for module in ("builtins", "__builtin__")}


def _checked(value: object) -> Packed:
    if not isinstance(value, tuple | list) or len(value) != 2 or not isinstance(value[0], list | tuple):
        raise PackedRefusedError("it holds no photos and pairs")
    contents = [_content(item) for item in value[0]]
    if sum(map(len, contents)) > _MAX_BYTES:  # the file is smaller: it names one photo often
        raise PackedRefusedError(f"its photos have more than {_MAX_BYTES // 2**30} GiB")
    photos = tuple(bytes(content) for content in contents)
    truths = [bool(byte) for byte in value[1].data] if isinstance(value[1], _Array) else value[1]
    if not isinstance(truths, list | tuple) or not all(item in (True, False) for item in truths):
        raise PackedRefusedError("its second part does not say whether pairs are of one person")
    if len(photos) != 2 * len(truths) or not photos:
        raise PackedRefusedError(f"it has {len(photos)} photos for {len(truths)} pairs")
    if len(photos) > _MAX_PHOTOS:
        raise PackedRefusedError(f"it has {len(photos)} photos, the limit is {_MAX_PHOTOS}")
    return Packed(photos, np.array([bool(item) for item in truths], np.bool_))


def _content(item: object) -> bytes | bytearray:
    content = item.data if isinstance(item, _Array) else item
    if isinstance(content, bytes | bytearray):
        return content
    raise PackedRefusedError("one of its photos is no image file")
