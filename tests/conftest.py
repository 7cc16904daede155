"""Fixtures that several test files share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Embedded, Engine, Postgres
from live_server import LiveServer, live_server
from photos import ROOT, astronaut, encode
from postgres_server import Cluster, running

from models import zoo
from models.image import ImageLimits
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.detector import Detector
from service.inference.finder import FaceFinder


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """A registry with the default models; fetched once a checkout, kept in .cache."""
    folder = ROOT / ".cache" / "models"
    registry = Registry(folder)
    for model_id in zoo.default_ids():
        zoo.pull(registry, model_id)
    return folder


@pytest.fixture(scope="session")
def registry(models_dir: Path) -> Registry:
    """The same as an object."""
    return Registry(models_dir)


@pytest.fixture(scope="module")
def own_models(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the registry, for servers that are told to activate models."""
    return shutil.copytree(models_dir, tmp_path_factory.mktemp("own") / "models", copy_function=os.link)


@pytest.fixture(scope="session")
def face_photo() -> bytes:
    """A JPEG of one person, 512 x 512."""
    return encode(astronaut(), "JPEG", quality=95)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL for all tests; each makes databases of its own."""
    with running(fsync="off") as started:
        yield started


@pytest.fixture(params=["embedded", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A place for an empty gallery, of each engine in turn."""
    embedded = request.param == "embedded"
    place: Engine = Embedded(tmp_path) if embedded else Postgres(tmp_path, request.getfixturevalue("cluster"))
    yield place
    place.remove()


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A real server with an empty gallery, shared by the tests of a file."""
    with live_server(tmp_path_factory.mktemp("data"), models_dir=str(models_dir)) as running:
        yield running


@pytest.fixture(scope="session")
def registry_crop(registry: Registry, face_photo: bytes) -> bytes:
    """The aligned crop of `face_photo`, cut by the service's own code, as a PNG."""
    detector = registry.resolve("detector")
    embedder = registry.resolve("embedder").manifest
    network = Detector(Session(detector.model_path, SessionOptions("cpu")), detector.manifest.input)
    finder = FaceFinder(network, embedder.alignment, ImageLimits())
    return encode(finder.find(face_photo).faces[0].crop)
