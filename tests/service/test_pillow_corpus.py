"""Every test image of Pillow, damaged ones and bombs included, through a real server."""

import subprocess
import sys
import tarfile
import time
from pathlib import Path

import PIL
import psutil
import pytest
from live_server import LiveServer
from photos import ROOT

CACHE = ROOT / ".cache"
# Measured: PEAK_MB; the server at rest takes REST_MB. The largest image of the corpus decides how much is on top.
MAX_RSS = 900 * 2**20
MAX_ANSWER_S = 2.0


@pytest.fixture(scope="module")
def corpus() -> list[Path]:
    """The files of Tests/images of the installed version's source package; fetched once a checkout."""
    folder = CACHE / f"pillow-{PIL.__version__}"
    if not folder.is_dir():
        archive = _download()
        with tarfile.open(archive) as source:
            images = [member for member in source if "/Tests/images/" in member.name and member.isfile()]
            unpacked = CACHE / f"{folder.name}.part"
            source.extractall(unpacked, members=images, filter="data")
        unpacked.rename(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _download() -> Path:
    CACHE.mkdir(exist_ok=True)
    # pip asks a source package for its metadata even where nothing is built; the installed build tools serve.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    try:
        subprocess.run(
            [*command, "--dest", str(CACHE), f"pillow=={PIL.__version__}"], check=True, capture_output=True, timeout=300
        )
        return next(CACHE.glob("[Pp]illow-*.tar.gz"))
    except (subprocess.SubprocessError, StopIteration) as error:
        pytest.skip(f"the source package of Pillow {PIL.__version__} cannot be had: {error}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_image_of_pillows_own_tests_breaks_slows_or_bloats_the_server(
    corpus: list[Path], server: LiveServer
) -> None:
    assert len(corpus) > 500
    process = psutil.Process(server.process.pid)
    slowest, largest, broken = (0.0, ""), (0, ""), []
    for path in corpus:
        data = path.read_bytes()
        started = time.perf_counter()
        answer = server.client.post("/embed", content=data, headers={"content-type": "application/octet-stream"})
        slowest = max(slowest, (time.perf_counter() - started, path.name))
        largest = max(largest, (process.memory_info().rss, path.name))
        if answer.status_code >= 500:
            broken.append((path.name, answer.status_code, answer.text))
    print("MEASURED", len(corpus), slowest, largest[0] / 2**20, largest)
    assert broken == []
    assert slowest[0] < MAX_ANSWER_S, slowest
    assert largest[0] < MAX_RSS, largest
    assert server.client.get("/healthz").status_code == 200
