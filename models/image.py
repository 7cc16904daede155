"""Bytes to an upright RGB array. Format and size are read from the header and checked before any pixel is decoded.

Accepted: JPEG, PNG, WebP and BMP, of any colour mode (grey, palette, alpha over white, CMYK, 16 bits a channel).
EXIF orientation is applied, so every coordinate downstream is a pixel of the upright image.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.errors import (
    FaceError,
    ImageTooLargeError,
    InvalidImageError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)

Pixels = NDArray[np.uint8]

# Our own limit is checked right after the header; Pillow's would warn or raise at a size of its own choosing.
Image.MAX_IMAGE_PIXELS = None

EXIF_ORIENTATION = 0x0112
# Genuine progressive files have about ten scans. Thousands of empty ones cost minutes in a small file.
MAX_JPEG_SCANS = 100
# Pillow reads headers in Python: millions of empty segments, or of bytes between them, hold a core for ten seconds.
# Genuine files have at most some hundred segments (a colour profile in 255 parts), PNGs a chunk for every 8 KiB.
MAX_JPEG_SEGMENTS = 1000
MAX_JPEG_PADDING = 2**16
MAX_PNG_CHUNKS = 20_000
_JPEG_MARKERS = np.zeros(256, bool)
_JPEG_MARKERS[[*range(0x01, 0xD0), *range(0xD8, 0xFF)]] = True
_BLOCK = 2**16  # bytes that are looked through at once
_SOS, _EOI = 0xDA, 0xD9
_BARE_JPEG_MARKERS = frozenset((0x01, 0xC8, 0xD8, _EOI, *range(0xF0, 0xFE)))

_ALLOWED = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
_REFUSED = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "PSD",
    b"\0\0\x01\0": "ICO",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"qoif": "QOI",
    b"DDS ": "DDS",
    b"<svg": "SVG",
    b"<?xml": "SVG",
}
# Pillow decodes these byte by byte in Python: 30 KB can hold a core for a quarter of a minute.
_BMP_RUN_LENGTH = (1, 2)
_TRANSPOSE = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}

_ON_ITS_SIDE = frozenset((5, 6, 7, 8))
_JPEG_FACTORS = (8, 4, 2)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before decoding: bytes of the file, pixels in all, pixels along one side."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 64_000_000
    max_side: int = 32_767


@dataclass(frozen=True, slots=True)
class Reduced:
    """A photo with fewer pixels than its file has: `pixels` (h, w, 3) of a photo of `width` x `height`."""

    pixels: Pixels
    width: int
    height: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all the pixels there are."""
        return self.pixels.shape[:2] == (self.height, self.width)


def decode_reduced(data: bytes, side: int, limits: ImageLimits | None = None) -> Reduced:
    """Decode an image file to upright RGB, a JPEG at the half, quarter or eighth of its size if that still has `side`.

    A JPEG is made of blocks of 8 x 8 pixels, of which a decoder can leave the fine half out: that takes a fraction of
    the time and memory. Other formats, and progressive JPEGs, are decoded whole.

    Args:
        data: the whole file.
        side: pixels that the long side must keep.
        limits: what to refuse unread, of the whole photo.

    Raises:
        FaceError: as `decode`.
    """
    pixels, (width, height) = _decode(data, limits or ImageLimits(), side)
    return Reduced(pixels, width, height)


def decode(data: bytes, limits: ImageLimits | None = None) -> Pixels:
    """Decode an image file to upright RGB.

    Args:
        data: the whole file.
        limits: what to refuse unread; the defaults of `ImageLimits` if left out.

    Returns:
        uint8 array (height, width, 3), RGB, C-contiguous and read-only.

    Raises:
        PayloadTooLargeError: more bytes than `max_bytes`.
        UnsupportedMediaTypeError: a known format outside the allow-list.
        ImageTooLargeError: the header states more pixels than the limits.
        InvalidImageError: empty, unknown, truncated or damaged.
    """
    return _decode(data, limits or ImageLimits(), None)[0]


def _decode(data: bytes, limits: ImageLimits, side: int | None) -> tuple[Pixels, tuple[int, int]]:
    """The pixels, and width and height of the upright photo in the file."""
    if len(data) > limits.max_bytes:
        raise PayloadTooLargeError(
            f"the image has {len(data)} bytes, the limit is {limits.max_bytes}", limit=limits.max_bytes
        )
    form = _sniff(data)
    if form == "WEBP":  # Pillow's WebP decoder allocates the canvas on opening: look at the header first.
        _check_size(*_webp_size(data), limits)
    if form == "JPEG":
        _check_jpeg_segments(data)
    if form == "PNG":
        _check_png_chunks(data)
    return _decode_checked(data, form, limits, side)


def _sniff(data: bytes) -> str:
    if not data:
        raise InvalidImageError("the image is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, form in _ALLOWED.items():
        if data.startswith(magic):
            return form
    refused = next((form for magic, form in _REFUSED.items() if data.startswith(magic)), None)
    if data[4:8] == b"ftyp":
        refused = "HEIF, AVIF or video"
    if refused:
        raise UnsupportedMediaTypeError(f"{refused} is not accepted; send JPEG, PNG, WebP or BMP")
    raise InvalidImageError("these bytes are not a JPEG, PNG, WebP or BMP image")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header of a WebP file states them (RFC 9649, sections 2.5 to 2.7)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise InvalidImageError("the WebP header is truncated")
    if chunk == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise InvalidImageError("the WebP header is damaged")


def _check_jpeg_segments(data: bytes) -> None:
    scans = padding = 0
    for count, (marker, skipped) in enumerate(_jpeg_segments(data)):
        padding += skipped if scans == 0 else 0
        scans += marker == _SOS
        if scans > MAX_JPEG_SCANS:
            raise InvalidImageError(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
        if count > MAX_JPEG_SEGMENTS or padding > MAX_JPEG_PADDING:
            raise InvalidImageError(
                f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments, or {MAX_JPEG_PADDING} bytes between them"
            )
        if marker == _EOI and scans:  # what follows is not the image: phones append a film there
            return


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker of a JPEG and the number of bytes skipped to find it, as Pillow's parser finds them."""
    position = 2
    while (at := _jpeg_marker(data, position)) >= 0:
        marker = data[at + 1]
        yield marker, at - position
        position = at + 2
        if marker not in _BARE_JPEG_MARKERS:
            position += max(int.from_bytes(data[position : position + 2], "big"), 2)
    yield _EOI, max(len(data) - position, 0)


def _jpeg_marker(data: bytes, start: int) -> int:
    """Where, from `start` on, the next marker is: 0xFF and its byte; -1 if there is none.

    In blocks, and by NumPy: coded pixels are most of the file, one byte in two hundred of them is 0xFF, and a loop, or
    a regular expression, would hold all other threads up meanwhile.
    """
    if data[start : start + 1] == b"\xff" and _JPEG_MARKERS[data[start + 1] if start + 1 < len(data) else 0]:
        return start
    values = np.frombuffer(data, np.uint8)
    for begin in range(start, len(data) - 1, _BLOCK):
        (places,) = np.nonzero(values[begin : min(begin + _BLOCK, len(data) - 1)] == 0xFF)
        (marked,) = np.nonzero(_JPEG_MARKERS[values[begin + 1 + places]])
        if len(marked):
            return begin + int(places[marked[0]])
    return -1


def _check_png_chunks(data: bytes) -> None:
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        if position >= len(data):
            return
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    raise InvalidImageError(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise ImageTooLargeError(
            f"the image is {width} x {height} pixels; the limit is {limits.max_pixels} pixels, "
            f"{limits.max_side} a side",
            width=width,
            height=height,
            max_pixels=limits.max_pixels,
            max_side=limits.max_side,
        )


def _decode_checked(data: bytes, form: str, limits: ImageLimits, side: int | None) -> tuple[Pixels, tuple[int, int]]:
    try:
        with Image.open(io.BytesIO(data), formats=[form]) as image:
            _check_size(*image.size, limits)
            if image.info.get("compression") in _BMP_RUN_LENGTH:
                raise UnsupportedMediaTypeError("run-length compressed BMP is not accepted; send it uncompressed")
            size = image.size
            # A progressive file has to be read to its end whatever is kept of it, which is most of the work.
            if side is not None and form == "JPEG" and "progressive" not in image.info:
                factor = _factor(max(size), side)
                image.draft(None, (size[0] // factor, size[1] // factor))
            if _orientation(image) in _ON_ITS_SIDE:
                size = size[::-1]
            return np.ascontiguousarray(_upright_rgb(image), dtype=np.uint8), size
    except (FaceError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # it would name an object in memory
        raise InvalidImageError(f"the {form} image cannot be decoded: its header is damaged or cut off") from error
    except Exception as error:  # Pillow's parsers raise anything from SyntaxError to struct.error on damage
        raise InvalidImageError(f"the {form} image cannot be decoded: {error}") from error


def _factor(long_side: int, side: int) -> int:
    return next((factor for factor in _JPEG_FACTORS if long_side >= factor * side), 1)


def _upright_rgb(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    image.load()
    rgb = _to_rgb(image)  # first, as turning an image forgets which of its colours is transparent
    for method in _TRANSPOSE.get(orientation, ()):
        rgb = rgb.transpose(method)
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
        return int(value)
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a channel: Pillow's own conversion clips instead of scaling
        wide = np.asarray(image).astype(np.uint32)
        narrow = (wide >> 8).clip(0, 255).astype(np.uint8)
        narrow[wide == image.info.get("transparency", -1)] = 255
        return Image.fromarray(narrow).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # The colour under a transparent pixel is arbitrary; white is what viewers show.
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
