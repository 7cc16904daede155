"""Image files to upright RGB, and what is refused unread."""

import io
import re
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import ROOT, astronaut, encode
from PIL import Image

from models import image
from models.errors import (
    FaceError,
    ImageTooLargeError,
    InvalidImageError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from models.image import MAX_JPEG_SCANS, MAX_JPEG_SEGMENTS, ImageLimits, Pixels, decode, decode_reduced

LOSSLESS = [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
# What each EXIF orientation does to the stored pixels, said with NumPy.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def _noise(height: int = 24, width: int = 36) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _smooth() -> Pixels:
    """Colour that lossy codecs keep closely."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 4, columns * 3, 255 - rows - columns], axis=-1).astype(np.uint8)


def _save(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _refused_within(seconds: float, data: bytes, error: type[FaceError], match: str | None = None) -> None:
    """The best of three counts: a busy machine can delay one."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(error, match=match):
            decode(data)
        times.append(time.perf_counter() - started)
    assert min(times) < seconds


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + body + _chunk(b"IEND", b"")


def _riff(chunk: bytes, body: bytes) -> bytes:
    inner = b"WEBP" + chunk + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def _bmp_header(width: int, height: int, compression: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + info + bytes(1024)


def _jpeg_header(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\x01\x11\0\x02\x11\0\x03\x11\0"
    scan = b"\x03\x01\0\x02\0\x03\0\0\x3f\0"
    segments = [(b"\xc0", frame), (b"\xda", scan)]
    body = b"".join(b"\xff" + name + struct.pack(">H", len(data) + 2) + data for name, data in segments)
    return b"\xff\xd8" + body + bytes(64)


def _vp8l_size(width: int, height: int) -> bytes:
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)


def _vp8_size(width: int, height: int) -> bytes:
    return b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", width, height)


def _vp8x_size(width: int, height: int) -> bytes:
    return bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


# A VP8 and a VP8L header have 14 bits for a side: 16,383 is the most they can claim.
BOMBS = {
    "png": _png(20_000, 20_000, b"\0" * 64),
    "jpeg": _jpeg_header(20_000, 20_000),
    "webp vp8": _riff(b"VP8 ", _vp8_size(16_383, 16_383) + bytes(64)),
    "webp vp8l": _riff(b"VP8L", _vp8l_size(16_383, 16_383) + bytes(64)),
    "webp vp8x": _riff(b"VP8X", _vp8x_size(20_000, 20_000)) + b"ALPH" + bytes(64),
    "bmp": _bmp_header(20_000, 20_000) + bytes(64),
    "bmp top down": _bmp_header(20_000, -20_000) + bytes(64),
}


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
def test_a_lossless_rgb_file_decodes_to_exactly_its_pixels(form: str, options: dict[str, object]) -> None:
    pixels = _noise()
    np.testing.assert_array_equal(decode(encode(pixels, form, **options)), pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_a_jpeg_decodes_to_about_its_pixels(options: dict[str, object]) -> None:
    pixels = _smooth()
    decoded = decode(encode(pixels, "JPEG", quality=97, **options))
    assert np.abs(decoded.astype(int) - pixels).mean() < 2


@pytest.mark.parametrize(("form", "options"), [*LOSSLESS, ("JPEG", {"quality": 95})])
def test_the_result_is_a_contiguous_byte_array_of_height_width_and_three(form: str, options: dict[str, object]) -> None:
    decoded = decode(encode(_noise(24, 36), form, **options))
    assert decoded.shape == (24, 36, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_a_grey_image_gets_three_equal_channels(form: str) -> None:
    grey = _noise()[..., 0]
    np.testing.assert_array_equal(decode(encode(grey, form)), np.repeat(grey[..., None], 3, axis=2))


def test_a_grey_jpeg_gets_three_equal_channels() -> None:
    decoded = decode(encode(_smooth()[..., 0], "JPEG", quality=97))
    assert (decoded == decoded[..., :1]).all()
    assert np.abs(decoded[..., 0].astype(int) - _smooth()[..., 0]).max() < 8


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_a_one_bit_image_becomes_black_and_white(form: str) -> None:
    bits = _noise()[..., 0] > 127
    decoded = decode(_save(Image.fromarray(bits.astype(np.uint8) * 255).convert("1"), form))
    np.testing.assert_array_equal(decoded, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_a_palette_image_takes_its_colours_from_the_palette(form: str) -> None:
    colours = _noise(1, 16)[0]
    index = np.random.default_rng(1).integers(0, 16, (20, 30), dtype=np.uint8)
    image = Image.fromarray(index).convert("L")
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode(_save(image, form)), colours[index])


def test_a_transparent_palette_colour_shows_as_white() -> None:
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 200]], np.uint8)
    index = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(index).convert("L")
    image.putpalette(colours.tobytes())
    expected = colours[index]
    expected[index == 1] = 255
    np.testing.assert_array_equal(decode(_save(image, "PNG", transparency=1)), expected)


def test_palette_entries_that_are_half_transparent_are_blended_with_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette(bytes([0, 0, 0, 100, 0, 0]))
    decoded = decode(_save(image, "PNG", transparency=bytes([128, 255])))
    np.testing.assert_allclose(decoded[0], [[127, 127, 127], [100, 0, 0]], atol=1)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_alpha_is_blended_over_white(form: str, options: dict[str, object]) -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    alpha = rgba[..., 3:].astype(np.float64) / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(decode(encode(rgba, form, **options)), expected, atol=1.01)


def test_grey_with_alpha_is_blended_over_white() -> None:
    pairs = np.array([[[0, 255], [0, 0], [100, 128]]], np.uint8)
    decoded = decode(_save(Image.fromarray(pairs, "LA"), "PNG"))
    np.testing.assert_allclose(decoded[0], [[0] * 3, [255] * 3, [177] * 3], atol=1)


def test_a_colour_key_in_an_rgb_png_shows_as_white() -> None:
    data = _png(2, 1, b"\0" + bytes([10, 20, 30, 200, 100, 0]), extra=_chunk(b"tRNS", bytes([0, 10, 0, 20, 0, 30])))
    assert decode(data).tolist() == [[[255, 255, 255], [200, 100, 0]]]


def test_a_cmyk_jpeg_decodes_to_its_rgb_colours() -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:32], pixels[:, 32:] = (255, 0, 0), (0, 255, 0), (20, 40, 200)
    decoded = decode(_save(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=98, subsampling=0))
    for centre in (8, 24, 40):
        np.testing.assert_allclose(decoded[16, centre], pixels[16, centre], atol=8)


def test_a_sixteen_bit_grey_png_is_scaled_and_not_clipped() -> None:
    wide = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode(encode(wide))
    np.testing.assert_array_equal(decoded, np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2))
    assert decoded.max() == 255
    assert len(np.unique(decoded)) == 256


def test_the_transparent_grey_of_a_sixteen_bit_png_shows_as_white() -> None:
    rows = b"\0" + struct.pack(">3H", 0x1234, 0x12FF, 0x8000)
    data = _png(3, 1, rows, depth=16, colour=0, extra=_chunk(b"tRNS", struct.pack(">H", 0x1234)))
    assert decode(data)[0, :, 0].tolist() == [255, 0x12, 0x80]


def test_a_sixteen_bit_colour_png_is_scaled_to_eight_bits() -> None:
    data = _png(2, 1, b"\0" + struct.pack(">6H", 0, 0x8000, 0xFFFF, 0x1234, 0x5678, 0x9ABC), depth=16)
    assert decode(data).tolist() == [[[0, 0x80, 0xFF], [0x12, 0x56, 0x9A]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_every_exif_orientation_is_turned_upright(form: str, options: dict[str, object], orientation: int) -> None:
    stored = _noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(stored, form, exif=exif.tobytes(), **options))
    np.testing.assert_array_equal(decoded, UPRIGHT[orientation](stored))
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright_after_decoding(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = decode(encode(_smooth(), "JPEG"))
    turned = decode(encode(_smooth(), "JPEG", exif=exif.tobytes()))
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](plain))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_colour_mode_can_be_turned(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    base = Image.fromarray(_noise()[..., 0])
    image = Image.fromarray(_noise()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else base.convert(mode)
    upright = decode(_save(image, "PNG"))
    np.testing.assert_array_equal(decode(_save(image, "PNG", exif=exif.tobytes())), np.rot90(upright, -1))


def test_a_transparent_colour_stays_transparent_when_the_image_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(bytes([9, 9, 9, 200, 0, 0, 0, 0, 200]))
    decoded = decode(_save(image, "PNG", transparency=0, exif=exif.tobytes()))
    assert decoded.tolist() == [[[0, 0, 200], [200, 0, 0], [255, 255, 255]]]


# Pillow warns about damaged metadata; tests turn warnings into errors, a server does not.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03",
        b"Exif\0\0" + b"\xa5" * 64,
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",  # orientation as a text
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
    ],
)
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    pixels = _smooth()
    np.testing.assert_array_equal(decode(encode(pixels, "JPEG", exif=exif)), decode(encode(pixels, "JPEG")))


@pytest.mark.parametrize(
    ("form", "options"),
    [("GIF", {}), ("TIFF", {}), ("ICO", {"sizes": [(24, 24)]}), ("JPEG2000", {}), ("PDF", {}), ("DDS", {})],
)
def test_other_formats_that_pillow_could_read_are_refused(form: str, options: dict[str, object]) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="send JPEG, PNG, WebP or BMP"):
        decode(encode(_noise(24, 24), form, **options))


@pytest.mark.parametrize(
    "start",
    [
        b"8BPS\0\x01",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"\0\0\0\x1cftypavif\0\0\0\0",
        b"\0\0\0\x18ftypmp42\0\0\0\0",
        b"\xff\x4f\xff\x51\0\x2f",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"qoif\0\0\0\x10",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<?xml version='1.0'?><svg/>",
    ],
)
def test_known_formats_outside_the_list_are_refused_by_name(start: bytes) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        decode(start + bytes(64))


def test_a_run_length_compressed_bmp_is_refused() -> None:
    # Pillow unpacks these in Python: 8,000 rows of one pixel each are 33 KB and held a core for 14 seconds.
    data = _bmp_header(4000, 4000, compression=1) + b"\x01\x00\x00\x00" * 4000 + b"\0\1"
    _refused_within(0.5, data, UnsupportedMediaTypeError, "run-length")


def test_empty_bytes_are_not_an_image() -> None:
    with pytest.raises(InvalidImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("data", [b"a", b"hello, this is text", bytes(1000), b"\xff\xd8", b"RIFF\0\0\0\0WAVE"])
def test_bytes_of_no_known_format_are_not_an_image(data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decode(data)


@pytest.mark.parametrize(("form", "options"), [*LOSSLESS, ("JPEG", {}), ("WEBP", {"quality": 80})])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(form: str, options: dict[str, object], share: float) -> None:
    data = encode(_noise(64, 64), form, **options)
    with pytest.raises(InvalidImageError):
        decode(data[: max(4, int(len(data) * share))])


@pytest.mark.parametrize("chunk", [b"VP8 ", b"VP8L", b"VP8X", b"JUNK"])
def test_a_webp_that_ends_in_its_header_is_refused(chunk: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decode(_riff(chunk, bytes(9)))


def test_a_webp_with_an_unknown_first_chunk_is_refused() -> None:
    with pytest.raises(InvalidImageError, match="header"):
        decode(_riff(b"JUNK", bytes(64)))


def test_a_file_over_the_byte_limit_is_refused_and_the_limit_is_told() -> None:
    data = encode(_noise())
    with pytest.raises(PayloadTooLargeError) as caught:
        decode(data, ImageLimits(max_bytes=len(data) - 1))
    assert caught.value.details == {"limit": len(data) - 1}


def test_a_file_of_exactly_the_limits_is_accepted() -> None:
    data = encode(_noise(24, 36))
    limits = ImageLimits(max_bytes=len(data), max_pixels=24 * 36, max_side=36)
    assert decode(data, limits).shape == (24, 36, 3)


@pytest.mark.parametrize("limits", [ImageLimits(max_pixels=24 * 36 - 1), ImageLimits(max_side=35)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_one_pixel_over_a_limit_is_refused_and_the_size_is_told(form: str, limits: ImageLimits) -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        decode(encode(_noise(24, 36), form), limits)
    assert (caught.value.details["width"], caught.value.details["height"]) == (36, 24)


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (300, 500)])
@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 80}, {"lossless": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}]
)
def test_the_size_read_from_a_webp_header_is_the_size_of_the_image(
    size: tuple[int, int], options: dict[str, object]
) -> None:
    # One pixel under the true size must be refused, the true size accepted: so the header was read right.
    width, height = size
    data = encode(_noise(height, width), "WEBP", **options)
    assert decode(data, ImageLimits(max_pixels=width * height)).shape == (height, width, 3)
    with pytest.raises(ImageTooLargeError):
        decode(data, ImageLimits(max_pixels=width * height - 1))


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_claims_hundreds_of_megapixels_is_refused_within_50_ms(name: str) -> None:
    _refused_within(0.05, BOMBS[name], ImageTooLargeError)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("png", (20_000, 20_000)),
        ("jpeg", (20_000, 20_000)),
        ("webp vp8", (16_383, 16_383)),
        ("webp vp8l", (16_383, 16_383)),
        ("webp vp8x", (20_000, 20_000)),
        ("bmp top down", (20_000, 20_000)),
    ],
)
def test_the_refusal_states_the_size_that_the_header_claims(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        decode(BOMBS[name])
    assert (caught.value.details["width"], caught.value.details["height"]) == size


def test_refusing_such_headers_takes_next_to_no_memory() -> None:
    # In a process of its own: the peak of this one was set by other tests. A decoder that allocates first would need
    # 400 MB or more for each of them.
    program = """
import resource, sys
from models.errors import ImageTooLargeError
from models.image import decode
from photos import encode
import numpy as np
for form in ("PNG", "JPEG", "WEBP", "BMP"):
    decode(encode(np.zeros((64, 64, 3), np.uint8), form))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for line in sys.stdin:
    try:
        decode(bytes.fromhex(line))
        sys.exit("accepted")
    except ImageTooLargeError:
        pass
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(data.hex() for data in BOMBS.values()),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"},
    )
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    assert int(done.stdout) * unit < 20 * 2**20


def test_a_jpeg_of_a_thousand_scans_is_refused_at_once() -> None:
    data = encode(_smooth(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff", start + 2)
    bomb = data[:start] + data[start:end] * 1000 + data[end:]
    _refused_within(0.05, bomb, InvalidImageError, "scans")


def test_scan_markers_behind_the_end_of_a_jpeg_are_not_counted() -> None:
    # Phones append a film to a photo; random bytes hold the two bytes of such a marker every 64 KB.
    data = encode(_smooth(), "JPEG")
    np.testing.assert_array_equal(decode(data + b"\xff\xda\0\2" * (10 * MAX_JPEG_SCANS)), decode(data))


def test_scan_markers_inside_a_segment_are_not_counted() -> None:
    data = encode(_smooth(), "JPEG")
    thumbnail = b"\xff\xda\0\x08" * (2 * MAX_JPEG_SCANS)
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    np.testing.assert_array_equal(decode(data[:2] + comment + data[2:]), decode(data))


def test_a_jpeg_with_a_colour_profile_in_many_parts_is_accepted() -> None:
    data = encode(_smooth(), "JPEG")
    part = b"\xff\xe2" + struct.pack(">H", 2 + 12 + 2 + 4) + b"ICC_PROFILE\0\x01\xffabcd"
    np.testing.assert_array_equal(decode(data[:2] + part * 255 + data[2:]), decode(data))


@given(st.lists(st.sampled_from([b"\xff", b"\0", b"\x01", b"\xd0", b"\xd9", b"\xda", b"\xfe", b"\xff\xe1\0\x05abc"])))
@settings(max_examples=300, deadline=None)
def test_markers_are_found_wherever_blocks_of_bytes_end(parts: list[bytes]) -> None:
    data = b"\xff\xd8" + b"".join(parts)
    expected, position = [], 2
    while match := re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])").search(data, position):
        marker, end = match[1][0], match.end()
        expected.append((marker, end - 2 - position))
        bare = marker in (0x01, 0xC8, 0xD8, 0xD9) or 0xF0 <= marker < 0xFE
        position = end if bare else end + max(int.from_bytes(data[end : end + 2], "big"), 2)
    expected.append((0xD9, max(len(data) - position, 0)))
    for block in (1, 3, 2**16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image, "_BLOCK", block)
            assert list(image._jpeg_segments(data)) == expected


@pytest.mark.parametrize(
    "filler",
    [b"\xff\xef\0\2" * 1_000_000, b"\xff\xfe\0\2" * (MAX_JPEG_SEGMENTS + 1), b"\xff" * 4_000_000, bytes(4_000_000)],
    ids=["empty segments", "one segment too many", "fill bytes", "junk between segments"],
)
def test_a_jpeg_padded_to_keep_the_parser_busy_is_refused_at_once(filler: bytes) -> None:
    data = encode(_smooth(), "JPEG")
    _refused_within(0.1, data[:2] + filler + data[2:], InvalidImageError)


@pytest.mark.parametrize(
    "data",
    [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x10\0\0\0WEBPVP8 " + bytes(20)],
    ids=["JPEG", "PNG", "BMP", "WEBP"],
)
def test_a_header_that_is_cut_off_is_told_without_what_is_inside_the_server(data: bytes) -> None:
    with pytest.raises(InvalidImageError) as caught:
        decode(data)
    assert "0x" not in caught.value.message
    assert "<" not in caught.value.message


def test_a_scan_that_ends_in_a_row_of_fill_bytes_is_refused_at_once() -> None:
    # Each of them may begin a marker: whoever looks from each to the end takes the square of the time.
    data = encode(_smooth(), "JPEG")
    _refused_within(0.1, data[:-2] + b"\xff" * 200_000, InvalidImageError)


def test_markers_without_a_length_do_not_hide_segments_from_the_count() -> None:
    # Pillow goes on right behind FFF0; a length read there would jump over what it then walks through.
    data = encode(_smooth(), "JPEG")
    hidden = b"\xff\xf0\xff\xff" + b"\xff\xef\0\2" * 16_000
    with pytest.raises(InvalidImageError, match="segments"):
        decode(data[:2] + hidden + data[2:])


def test_a_png_of_a_million_chunks_is_refused_at_once() -> None:
    data = _png(1, 1, bytes(4), extra=_chunk(b"teSt", b"") * 1_000_000)
    _refused_within(0.2, data, InvalidImageError, "chunks")


def test_a_png_text_that_unpacks_to_megabytes_is_refused() -> None:
    text = b"key\0\0" + zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(InvalidImageError):
        decode(_png(1, 1, bytes(4), extra=_chunk(b"zTXt", text)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("magic", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x40\0\0\0WEBP"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_end_in_an_error_of_ours(magic: bytes, data: bytes) -> None:
    _decode_or_refuse(magic + data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 60}),
        ("BMP", {}),
    ],
)
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.floats(0.1, 1),
)
def test_a_damaged_file_decodes_or_ends_in_an_error_of_ours(
    form: str, options: dict[str, object], changes: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(encode(_noise(20, 30), form, **options))
    for place, value in changes:
        # Squared, so that most of the damage falls on the header, where the parsers are.
        data[int(place**2 * len(data))] = value
    _decode_or_refuse(bytes(data[: int(len(data) * cut)]))


def _decode_or_refuse(data: bytes) -> None:
    # A low limit keeps the sizes that a damaged header can claim quick to decode.
    try:
        decoded = decode(data, ImageLimits(max_pixels=1_000_000))
    except FaceError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3
    assert decoded.flags.c_contiguous


def test_a_photo_survives_every_accepted_format_alike() -> None:
    photo = astronaut()
    for form, options in (*LOSSLESS, ("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})):
        decoded = decode(encode(photo, form, **options))
        assert np.abs(decoded.astype(int) - photo).mean() < 3


@pytest.mark.parametrize(("side", "factor"), [(5000, 1), (1200, 1), (800, 2), (400, 4), (200, 8), (1, 8)])
def test_a_large_jpeg_is_decoded_at_a_fraction_that_still_has_the_side(side: int, factor: int) -> None:
    colours = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    photo = np.ascontiguousarray(colours.repeat(200, axis=0).repeat(200, axis=1))
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=95, subsampling=0)

    reduced = decode_reduced(buffer.getvalue(), side)

    assert (reduced.width, reduced.height) == (1600, 1200)
    assert reduced.pixels.shape == (1200 // factor, 1600 // factor, 3)
    assert reduced.is_whole == (factor == 1)
    middles = reduced.pixels[100 // factor :: 200 // factor, 100 // factor :: 200 // factor].astype(int)
    assert np.abs(middles - colours).max() <= 12


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("JPEG", {"progressive": True})])
def test_what_is_no_faster_at_a_fraction_is_decoded_whole(form: str, options: dict[str, bool]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 700), "red").save(buffer, form, **options)

    assert decode_reduced(buffer.getvalue(), 10).pixels.shape == (700, 900, 3)


def test_a_photo_over_the_limit_is_refused_by_all_its_pixels_even_if_few_would_be_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 700), "red").save(buffer, "JPEG")

    with pytest.raises(ImageTooLargeError):
        decode_reduced(buffer.getvalue(), 10, ImageLimits(max_pixels=600_000))
