"""A promotion and the job that it is told by are one step for the server that makes it."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from activation import NEW, OLD, two_models
from galleries import open_gallery

from models.registry import Registry
from service import activation
from service.activation import Activation
from service.domain import CollectionSettings, ModelInfo
from service.gallery.embedded import EmbeddedGallery


class Serving:
    """Stands for the models that are served."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.make_default(OLD)

    def info(self, name: str) -> ModelInfo:
        manifest = self._registry.manifest(name)
        return ModelInfo(name, manifest.contract_id, manifest.dimension or 0)

    def make_default(self, name: str) -> None:
        self.default = SimpleNamespace(model=self.info(name), calibration=self._registry.manifest(name).calibration)

    def renew(self) -> list[str]:
        return []

    def load_for_default(self, name: str) -> None: ...

    def know(self, contracts: Any) -> None: ...

    def keep(self, contracts: Any) -> None: ...

    def of_now(self, model: ModelInfo) -> None: ...


@pytest.fixture
def slow(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Activation, Registry]]:
    """Looks at the registry all the time, and is slow between a promotion and its job, which nobody works on."""
    registry = two_models(models_dir, tmp_path / "data" / "models")
    monkeypatch.setattr(activation, "LOOK_EVERY_S", 0.001)
    with closing(open_gallery(tmp_path / "data")) as gallery:
        serving: Any = Serving(registry)
        gallery.put_collection("lab", CollectionSettings("door"), serving.info(OLD))
        monkeypatch.setattr(EmbeddedGallery, "note", _slowly(EmbeddedGallery.note))
        working = Activation(registry, serving, gallery, None, 1e-3, 1e-2)
        monkeypatch.setattr(working, "_run_open", lambda: None)
        working.start()
        yield working, registry
        working.close()


def _slowly(note: Any) -> Any:
    def slow_note(*args: Any, **about: Any) -> None:
        time.sleep(0.2)
        note(*args, **about)

    return slow_note


def test_an_activation_is_told_by_its_own_job_alone(slow: tuple[Activation, Registry]) -> None:
    working, _ = slow
    job = working.activate(NEW, "somebody")
    time.sleep(0.1)
    assert [(each.id, each.kind) for each in working.jobs()] == [(job.id, "activate")]


def test_so_is_the_way_back(slow: tuple[Activation, Registry]) -> None:
    working, registry = slow
    registry.promote(NEW)
    while not working.jobs():  # somebody else's promotion is followed
        time.sleep(0.01)
    job = working.roll_back("somebody")
    time.sleep(0.1)
    assert [each.kind for each in working.jobs()] == ["rollback", "follow"]
    assert working.jobs()[0].id == job.id
