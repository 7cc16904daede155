"""Photos to an aligned set: the crops of the service, a report of what was skipped, and runs that are killed."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tarfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from photos import astronaut, encode, shared

from models.alignment import Template
from models.registry import Registry
from service.inference.finder import FaceFinder
from training.__main__ import main
from training.data.aligned import AlignedSet
from training.data.aligning import Cut, Report, align_photos
from training.data.faces import DetectingCutter, WholeCutter, face_finder
from training.data.parts import AlignSettings
from training.data.people import DataError, Photo

Pixels = NDArray[np.uint8]
FILES = ("crops.npy", "hashes.npy", "report.json", "set.json", "skipped.csv")


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _crop(number: int, height: int = 112, width: int = 112) -> bytes:
    return encode(np.full((height, width, 3), number % 256, np.uint8))


def _two_faces() -> Pixels:
    """A large face at the left edge and a small one, mirrored, in the middle."""
    head = astronaut()[20:260, 120:330]
    canvas = np.full((360, 720, 3), 128, np.uint8)
    canvas[60:300, 0:210] = head
    canvas[120:240, 308:413] = cv2.resize(head[:, ::-1], (105, 120), interpolation=cv2.INTER_AREA)
    return canvas


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photo = astronaut()
    files = {
        "ann/mirrored.png": encode(photo[:, ::-1]),
        "ann/plain.jpg": encode(photo, "JPEG", quality=95),
        "bob/broken.jpg": b"this is no image",
        "bob/small.png": encode(cv2.resize(photo, (128, 128), interpolation=cv2.INTER_AREA)),
        "bob/two.png": encode(_two_faces()),
        "cid/wall.png": encode(np.full((200, 300, 3), 180, np.uint8)),
    }
    return _write(tmp_path_factory.mktemp("people"), files)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["align", *map(str, arguments)])


def _ran(*arguments: object) -> str:
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def _refused(*arguments: object) -> str:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert "unexpected" not in result.output
    return result.output


def _skipped(out: Path) -> list[tuple[str, str, str]]:
    with (out / "skipped.csv").open(newline="") as file:
        return [(row["photo"], row["person"], row["code"]) for row in csv.DictReader(file)]


def _bytes(out: Path) -> dict[str, bytes]:
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


def _finder(registry: Registry, template: Template) -> FaceFinder:
    return face_finder(registry.resolve("detector"), template)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "size"), [(Template("arcface", 112, 112), None), (Template("sphereface", 192, 224), "224x192")]
)
def test_crops_are_those_that_the_service_cuts(
    registry: Registry, models_dir: Path, people: Path, tmp_path: Path, template: Template, size: str | None
) -> None:
    options = ["--size", size] if size else []

    _ran("--data", people, "--out", tmp_path / "set", "--registry", models_dir, "--template", template.name, *options)

    data = AlignedSet.open(tmp_path / "set", verify=True)
    assert data.photos == ("ann/mirrored.png", "ann/plain.jpg", "bob/small.png", "bob/two.png")
    assert (data.people, data.template, data.source) == (("ann", "bob"), template.name, people.name)
    for photo, crop in zip(data.photos, data.crops, strict=True):
        face = _finder(registry, template).find((people / photo).read_bytes()).faces[0]
        np.testing.assert_array_equal(crop, face.crop)


def test_what_was_skipped_is_printed_and_listed_with_the_reason(models_dir: Path, people: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"

    printed = _ran("--data", people, "--out", out, "--registry", models_dir, "--min-face", 40, "--threads", 1)

    assert f"{out}: 3 crops of 2 people out of 6 photos" in printed
    assert "skipped 1: too_small, such as bob/small.png: the face has" in printed
    assert _skipped(out) == [
        ("bob/broken.jpg", "bob", "invalid_image"),
        ("bob/small.png", "bob", "too_small"),
        ("cid/wall.png", "cid", "no_face"),
    ]
    report = json.loads((out / "report.json").read_text())
    assert report["skipped"] == {"invalid_image": 1, "no_face": 1, "too_small": 1}
    assert (report["photos"], report["aligned"], report["people"]) == (6, 3, 2)
    assert not (tmp_path / "set.partial").exists()


def test_the_central_face_is_taken_where_that_is_asked_for(
    registry: Registry, models_dir: Path, people: Path, tmp_path: Path
) -> None:
    _ran("--data", people, "--out", tmp_path / "set", "--registry", models_dir, "--face", "central")

    faces = _finder(registry, Template("arcface", 112, 112)).find((people / "bob" / "two.png").read_bytes()).faces
    data = AlignedSet.open(tmp_path / "set")
    np.testing.assert_array_equal(data.crops[data.photos.index("bob/two.png")], faces[1].crop)


def test_people_with_too_few_crops_are_left_out_and_told(tmp_path: Path) -> None:
    files = {"ann/1.png": _crop(1), "ann/2.png": _crop(2), "bob/1.png": _crop(3), "bob/2.png": b"no image"}
    source = _write(tmp_path / "crops", {**files, "cid/1.png": _crop(4), "cid/2.png": _crop(5), "cid/3.png": _crop(6)})

    _ran("--data", source, "--out", tmp_path / "set", "--aligned", "--min-images", 2)

    data = AlignedSet.open(tmp_path / "set", verify=True)
    assert (data.people, data.labels.tolist()) == (("ann", "cid"), [0, 0, 1, 1, 1])
    assert data.crops[:, 0, 0, 0].tolist() == [1, 2, 4, 5, 6]
    assert _skipped(tmp_path / "set") == [("bob/1.png", "bob", "few_images"), ("bob/2.png", "bob", "invalid_image")]


def test_crops_that_are_aligned_already_are_scaled_and_those_of_another_shape_are_told(tmp_path: Path) -> None:
    """Without a registry: no detector is needed."""
    crop = cv2.resize(astronaut(), (224, 224), interpolation=cv2.INTER_AREA)
    source = _write(tmp_path / "crops", {"ann/1.png": encode(crop), "bob/1.png": _crop(7), "bob/2.png": _crop(8, 96)})

    _ran("--data", source, "--out", tmp_path / "set", "--aligned", "--registry", tmp_path / "none")

    data = AlignedSet.open(tmp_path / "set")
    np.testing.assert_array_equal(data.crops[0], cv2.resize(crop, (112, 112), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(data.crops[1], np.full((112, 112, 3), 7, np.uint8))
    assert _skipped(tmp_path / "set") == [("bob/2.png", "bob", "invalid_request")]
    assert not (tmp_path / "none").exists()


def test_columns_of_a_list_become_groups(tmp_path: Path) -> None:
    _write(tmp_path, {"1.png": _crop(1), "2.png": _crop(2)})
    (tmp_path / "list.csv").write_text("path,person,sex\n1.png,zoe,f\n2.png,adam,m\n")

    _ran("--data", tmp_path / "list.csv", "--out", tmp_path / "set", "--aligned")

    data = AlignedSet.open(tmp_path / "set")
    assert (data.people, data.labels.tolist(), dict(data.groups)) == (("adam", "zoe"), [1, 0], {"sex": ("f", "m")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "112"], "--size must be HEIGHTxWIDTH"),
        (["--size", "96x112"], "template arcface has the shape 112:112, not 112:96"),
        (["--data", "nowhere.tar"], "cannot read nowhere.tar: No such file"),
    ],
)
def test_a_wrong_option_is_one_clear_line(tmp_path: Path, options: list[str], message: str) -> None:
    source = _write(tmp_path / "crops", {"ann/1.png": _crop(1)})

    assert message in _refused("--data", source, "--out", tmp_path / "set", "--aligned", *options)


def test_an_output_that_is_there_is_not_touched(tmp_path: Path) -> None:
    source = _write(tmp_path / "crops", {"ann/1.png": _crop(1)})
    _write(tmp_path / "set", {"mine.txt": b"mine"})

    assert "exists already" in _refused("--data", source, "--out", tmp_path / "set", "--aligned")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]


def test_a_source_without_any_crop_is_told_with_the_reasons(tmp_path: Path) -> None:
    source = _write(tmp_path / "crops", {"ann/1.png": _crop(1, 96), "ann/2.png": b"no image"})

    message = _refused("--data", source, "--out", tmp_path / "set", "--aligned")

    assert "gave no crop out of 2 photos" in message
    assert "ann/2.png: these bytes are not" in message
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    source = _write(tmp_path / "crops", {"ann/1.png": _crop(1)})
    (tmp_path / "file").write_text("no folder")

    assert "cannot write" in _refused("--data", source, "--out", tmp_path / "file" / "set", "--aligned")


# Runs that end early --------------------------------------------------------------------------------------------------

PLACE = Template("arcface", 112, 112)


def _settings(source: Path, /, **changed: object) -> AlignSettings:
    fields: dict[str, object] = {
        "source": str(source),
        "template": "arcface",
        "height": 112,
        "width": 112,
        "face": "whole image",
        "aligned": True,
        "min_face": 0,
        "detector": None,
    }
    return AlignSettings.model_validate(fields | changed)


def _align(source: Path, out: Path, cut: Cut | None = None, threads: int = 2) -> Report:
    return align_photos(source, out, _settings(source), cut or WholeCutter(PLACE), threads)


class _StopError(Exception):
    """What ends a run here."""


def _until(count: int, touched: list[str]) -> Cut:
    """A cutter that fails after so many photos; on one thread."""

    def cut(photo: Photo) -> Pixels:
        if len(touched) == count:
            raise _StopError
        touched.append(photo.name)
        crop = WholeCutter(PLACE)(photo)
        assert isinstance(crop, np.ndarray)
        return crop

    return cut


def _stopped(source: Path, out: Path, count: int) -> None:
    with pytest.raises(_StopError):
        _align(source, out, _until(count, []), threads=1)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    return _write(tmp_path / "crops", {f"p{number % 5}/{number:02}.png": _crop(number) for number in range(30)})


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(crops: Path, tmp_path: Path) -> None:
    touched: list[str] = []
    _stopped(crops, tmp_path / "set", 12)
    _align(crops, tmp_path / "set", _until(1000, touched))
    _align(crops, tmp_path / "whole")

    assert len(touched) == 30 - 12
    assert _bytes(tmp_path / "set") == _bytes(tmp_path / "whole")


def test_what_a_power_cut_left_half_written_is_done_again(crops: Path, tmp_path: Path) -> None:
    _stopped(crops, tmp_path / "set", 12)
    partial = tmp_path / "set.partial"
    with (partial / "crops.bin").open("ab") as file:
        file.write(b"half a crop")
    with (partial / "done.jsonl").open("ab") as file:
        file.write(b'{"name":"p2/12.png","per')
    _write(partial / "final", {"crops.npy": b"half a set", "other": b"x"})
    _align(crops, tmp_path / "set")
    _align(crops, tmp_path / "whole")

    assert _bytes(tmp_path / "set") == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_change_a_byte(crops: Path, tmp_path: Path, threads: int) -> None:
    _align(crops, tmp_path / "set", threads=threads)
    _align(crops, tmp_path / "whole", threads=2)

    assert _bytes(tmp_path / "set") == _bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"template": "sphereface"}, "is half done with template arcface, not sphereface"),
        ({"height": 224}, "is half done with height 112, not 224"),
        ({"detector": "other"}, "is half done with detector None, not other"),
        ({"source": "other"}, "is half done with source /"),
    ],
)
def test_other_options_than_those_that_it_was_begun_with_are_refused(
    crops: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    _stopped(crops, tmp_path / "set", 12)

    with pytest.raises(DataError, match=message):
        align_photos(crops, tmp_path / "set", _settings(crops, **changed), WholeCutter(PLACE), 1)


def _rewrite(crops: Path) -> None:
    (crops / "p0" / "05.png").write_bytes(_crop(99))


def _add(crops: Path) -> None:
    (crops / "p0" / "03.png").write_bytes(_crop(99))


def _remove(crops: Path) -> None:
    (crops / "p0" / "05.png").unlink()


def _rename(crops: Path) -> None:
    (crops / "p0").rename(crops / "a0")


@pytest.mark.parametrize("change", [_rewrite, _add, _remove, _rename])
def test_a_source_that_has_changed_since_is_refused(
    crops: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    _stopped(crops, tmp_path / "set", 12)
    change(crops)

    with pytest.raises(DataError, match="is not what it was"):
        _align(crops, tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "data"),
    [("settings.json", b"{}"), ("done.jsonl", b"nothing\n"), ("done.jsonl", b'{"crop":1}\n'), ("crops.bin", b"few")],
)
def test_a_damaged_part_is_one_clear_line(crops: Path, tmp_path: Path, name: str, data: bytes) -> None:
    _stopped(crops, tmp_path / "set", 12)
    (tmp_path / "set.partial" / name).write_bytes(data)

    with pytest.raises(DataError, match=rf"set\.partial is damaged: .*{name}; delete the folder"):
        _align(crops, tmp_path / "set")


def test_a_crop_that_was_damaged_while_it_lay_there_is_not_taken_over(crops: Path, tmp_path: Path) -> None:
    _stopped(crops, tmp_path / "set", 12)
    path = tmp_path / "set.partial" / "crops.bin"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)

    with pytest.raises(DataError, match=r"crops\.bin"):
        _align(crops, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_second_run_at_the_same_time_is_refused(crops: Path, tmp_path: Path) -> None:
    def cut(photo: Photo) -> Pixels:
        with pytest.raises(DataError, match="another run is at work"):
            _align(crops, tmp_path / "set")
        raise _StopError

    with pytest.raises(_StopError):
        _align(crops, tmp_path / "set", cut, threads=1)


def test_a_source_that_is_damaged_further_on_keeps_what_was_done_before(crops: Path, tmp_path: Path) -> None:
    archive = tmp_path / "crops.tar"
    with tarfile.open(archive, "w") as file:
        file.add(crops, arcname="crops")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(DataError, match="cannot read"):
        _align(archive, tmp_path / "set")
    done = len((tmp_path / "set.partial" / "done.jsonl").read_text().splitlines())
    archive.write_bytes(whole)

    touched: list[str] = []
    _align(archive, tmp_path / "set", _until(1000, touched))

    assert 0 < done < 30
    assert len(touched) == 30 - done


def test_progress_counts_what_an_earlier_run_has_done(crops: Path, tmp_path: Path) -> None:
    _stopped(crops, tmp_path / "set", 12)
    steps: list[int] = []

    align_photos(crops, tmp_path / "set", _settings(crops), WholeCutter(PLACE), 2, progress=steps.append)

    assert steps == [12] + [1] * 18


@contextlib.contextmanager
def _process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "training", "align", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """It hangs at a pipe in the middle of its list, so that it is killed there however fast it is."""
    _write(tmp_path, {f"{number}.png": _crop(number) for number in range(20)})
    rows = [f"{number % 20}.png,p{number % 7}" for number in range(1300)]
    rows[1200] = "pipe.png,p1"
    source = tmp_path / "list.csv"
    source.write_text("\n".join(["path,person", *rows, ""]))
    os.mkfifo(tmp_path / "pipe.png")
    log = tmp_path / "set.partial" / "done.jsonl"
    options = ("--data", source, "--aligned")

    with _process(*options, "--out", tmp_path / "set", "--threads", 2) as process:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "pipe.png").write_bytes(_crop(77))
    done = log.read_bytes().count(b"\n")
    _ran(*options, "--out", tmp_path / "set")
    _ran(*options, "--out", tmp_path / "whole")

    assert 0 < done < 1200
    assert _bytes(tmp_path / "set") == _bytes(tmp_path / "whole")
    assert len(AlignedSet.open(tmp_path / "set", verify=True)) == 1300


def test_on_a_terminal_a_bar_shows_the_progress(crops: Path, tmp_path: Path) -> None:
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "training", "align", "--data", crops, "--out", tmp_path / "set", "--aligned"]
    subprocess.run(command, stderr=its_end, stdout=subprocess.PIPE, check=True, timeout=60)
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(terminal, 1000):
            shown += part
    os.close(terminal)

    assert b"aligning: 30 photos [" in shown


@pytest.mark.slow
def test_a_handful_of_people_of_lfw_are_aligned_without_a_miss(
    registry: Registry, models_dir: Path, tmp_path: Path
) -> None:
    small = tmp_path / "lfw.tar"
    with tarfile.open(shared("lfw_devtrain.tar")) as source, tarfile.open(small, "w") as target:
        for member in (source.next() for _ in range(60)):
            if member is not None and member.isfile():
                target.addfile(member, source.extractfile(member))

    _ran("--data", small, "--out", tmp_path / "set", "--face", "central", "--registry", models_dir)

    data = AlignedSet.open(tmp_path / "set", verify=True)
    cutter = DetectingCutter(registry.resolve("detector"), PLACE, "central")
    assert len(data) > 20
    assert _skipped(tmp_path / "set") == []
    with tarfile.open(small) as archive:
        first = archive.extractfile(data.photos[0])
        assert first is not None
        crop = cutter(Photo("", "", first.read()))
    np.testing.assert_array_equal(data.crops[0], crop)


def test_a_mistyped_source_leaves_nothing_that_refuses_the_right_one(tmp_path: Path) -> None:
    crops = _write(tmp_path / "in", {f"{name}/{number}.png": _crop(number) for name in "ab" for number in range(2)})

    result = _run("--data", tmp_path / "nope", "--out", tmp_path / "out", "--aligned")

    assert result.exit_code == 2
    assert not list(tmp_path.glob("out*"))
    assert "4" in _ran("--data", crops, "--out", tmp_path / "out", "--aligned")
