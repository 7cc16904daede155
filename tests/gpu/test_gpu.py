"""On a GPU: the same vectors and faces as on the processor, however they are launched. Skipped where there is none."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from live_server import live_server, wait_until
from numpy.typing import NDArray
from photos import astronaut, group, hopper

from models.bundle import Bundle
from models.errors import DeviceUnavailableError
from models.preprocess import Vectors
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import crews_for
from service.inference.detector import Detections, Detector
from service.inference.embedder import Embedder
from service.inference.looks import SharedLooks

# float32 on both, summed in another order.
_SAME = 1 - 1e-6
_PIXELS = 0.1


@pytest.fixture(scope="session", autouse=True)
def gpu(registry: Registry) -> None:
    """Skip all of this where CUDA does not work."""
    try:
        Session(registry.resolve("detector").model_path, SessionOptions("cuda"))
    except DeviceUnavailableError as error:
        pytest.skip(f"no GPU: {error.message}")


@pytest.fixture(scope="module")
def bundle(registry: Registry) -> Bundle:
    return registry.resolve("embedder")


@pytest.fixture(scope="module")
def crops(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """40 views of one face, shifted, turned and lit in other ways."""
    rng = np.random.default_rng(0)
    side = bundle.manifest.input.width
    views = []
    for _ in range(40):
        centre, turn, size = rng.uniform(-8, 8, 2), rng.uniform(-15, 15), rng.uniform(0.6, 0.9)
        place = cv2.getRotationMatrix2D((230, 110), turn, size)
        place[:, 2] += np.array([side / 2 - 230, side / 2 - 110]) + centre
        view = cv2.warpAffine(astronaut(), place, (side, side)).astype(np.float32) * rng.uniform(0.6, 1.3)
        views.append(np.clip(view, 0, 255).astype(np.uint8))
    return views


def _embedder(bundle: Bundle, device: str, most: int = 8, graphs: bool = False) -> Embedder:
    return Embedder(Session(bundle.model_path, SessionOptions(device, graphs=graphs)), bundle.manifest, most)


@pytest.fixture(scope="module")
def on_the_processor(bundle: Bundle, crops: list[NDArray[np.uint8]]) -> Vectors:
    return _embedder(bundle, "cpu").embed(crops)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("size", [1, 3, 8, 40])
def test_vectors_of_a_gpu_are_those_of_the_processor(
    bundle: Bundle, crops: list[NDArray[np.uint8]], on_the_processor: Vectors, size: int, graphs: bool
) -> None:
    embedder = _embedder(bundle, "cuda", 64, graphs)
    for _ in range(3):  # a graph is recorded in one run and launched in the next
        vectors = np.concatenate([embedder.embed(crops[at : at + size]) for at in range(0, 40, size)])
        assert (vectors * on_the_processor).sum(1).min() >= _SAME


def test_graphs_of_several_sizes_are_launched_from_several_threads(
    bundle: Bundle, crops: list[NDArray[np.uint8]], on_the_processor: Vectors
) -> None:
    embedder = _embedder(bundle, "cuda", 8, graphs=True)
    begins = threading.Barrier(4)

    def embed(seed: int) -> float:
        rng, worst = np.random.default_rng(seed), 1.0
        begins.wait()
        for _ in range(50):
            places = rng.choice(40, rng.integers(1, 9), replace=False)
            vectors = embedder.embed([crops[place] for place in places])
            worst = min(worst, float((vectors * on_the_processor[places]).sum(1).min()))
        return worst

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(embed, range(4))) >= _SAME


def _same_faces(found: Detections, expected: Detections) -> None:
    assert len(found) == len(expected) > 0
    assert np.abs(found.landmarks - expected.landmarks).max() < _PIXELS
    assert np.abs(found.boxes - expected.boxes).max() < _PIXELS


def test_faces_that_are_looked_for_together_on_a_gpu_are_those_that_the_processor_finds(registry: Registry) -> None:
    found = registry.resolve("detector")
    spec = found.manifest.input
    processor = Session(found.model_path, SessionOptions("cpu"))
    processor.device = "cuda"  # so that it is given the same squares
    alone = Detector(processor, spec)
    session = Session(found.model_path, SessionOptions("cuda", free_batch=True))
    together = Detector(session, spec)
    crews = crews_for(session.device, 8)
    sizes: list[int] = []
    looks = SharedLooks(session, crews[-1], 8)
    run = session.run

    def counted(batch: Vectors) -> dict[str, Vectors]:
        sizes.append(len(batch))
        return run(batch)

    session.run = counted  # type: ignore[method-assign]
    together.run_by(looks.run)
    photos = [astronaut(), hopper(), group(), astronaut()[:, ::-1].copy()]
    expected = [alone.detect(photo) for photo in photos]
    # The network's thread is held until all have come, so that they are in one queue.
    come, go = threading.Event(), threading.Event()

    def hold(_: list[None]) -> list[None]:
        come.set()
        go.wait(20)
        return [None]

    holding: Batcher[None, None] = Batcher("hold", hold, BatcherOptions(1), crews[-1])
    holding.submit([None])
    assert come.wait(20)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(together.detect, photo) for photo in photos * 2]
        wait_until(lambda: looks.waiting == 8)
        go.set()
        for answer, each in zip(answers, expected * 2, strict=True):
            _same_faces(answer.result(60), each)
    assert max(sizes) > 1
    for crew in crews:
        crew.close()


@pytest.mark.parametrize(("graphs", "detector"), [("false", "cpu"), ("true", "cpu"), ("false", "cuda")])
def test_a_server_on_a_gpu_says_so_and_answers_as_one_on_the_processor(
    models_dir: Path, tmp_path: Path, face_photo: bytes, graphs: str, detector: str
) -> None:
    vectors = []
    for device in ("cpu", "cuda"):
        more = {"cuda_graphs": graphs, "detector_device": detector} if device == "cuda" else {}
        with live_server(tmp_path / device, models_dir=str(models_dir), device=device, **more) as server:
            assert re.search(rf"serving \S+ \(contract \S+\) on {device} ", "".join(server.log))
            told = server.client.get("/metrics").text
            assert re.search(rf'facesphere_model_info\{{[^}}]*device="{device}"[^}}]*kind="embedder"', told)
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: _embed(server.client, face_photo), range(32)))
            assert {answer.status_code for answer in answers} == {200}
            vectors.append(np.array([answer.json()["faces"][0]["embedding"] for answer in answers]))
    # A landmark that is a hundredth of a pixel off moves a vector more than another order of sums.
    worst = 1 - 1e-5 if detector == "cpu" else 1 - 1e-3
    assert (vectors[1] * vectors[0][0]).sum(1).min() >= worst


def test_a_server_takes_a_gpu_by_itself(models_dir: Path, tmp_path: Path) -> None:
    with live_server(tmp_path, models_dir=str(models_dir)) as server:
        assert re.search(r"serving \S+ \(contract \S+\) on cuda ", "".join(server.log))


def _embed(client: httpx.Client, photo: bytes) -> httpx.Response:
    return client.post("/embed", content=photo, headers={"content-type": "image/jpeg"})


def test_faces_are_looked_for_on_a_gpu_only_beside_an_embedder_there(models_dir: Path, tmp_path: Path) -> None:
    settings = {"device": "cpu", "detector_device": "cuda"}
    with (
        pytest.raises(RuntimeError, match="not on cpu"),
        live_server(tmp_path, models_dir=str(models_dir), **settings),
    ):
        pass
