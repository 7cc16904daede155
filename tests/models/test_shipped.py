"""The models that come with the project: whole, documented, and used by name without any download."""

from pathlib import Path

import numpy as np
import pytest

from models import bundle as bundles
from models import zoo
from models.errors import SourceError
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder

SHIPPED = Path(zoo.__file__).parent / "shipped"


def test_there_are_models_of_our_own() -> None:
    assert zoo.shipped_ids()


@pytest.mark.parametrize("model_id", zoo.shipped_ids())
def test_a_shipped_bundle_is_whole_calibrated_and_small(model_id: str) -> None:
    bundle = bundles.load(SHIPPED / model_id)

    assert bundle.manifest.id == model_id
    assert bundle.manifest.calibration is not None
    assert bundle.model_path.stat().st_size < 8_000_000


@pytest.mark.parametrize("model_id", zoo.shipped_ids())
def test_its_card_says_how_it_was_made_on_what_and_under_which_terms(model_id: str) -> None:
    card = bundles.load(SHIPPED / model_id).card() or ""

    for word in ("sface-2021dec", "LFW", "research", "facesphere-train train", "Licence"):
        assert word in card, word


@pytest.mark.parametrize("model_id", zoo.shipped_ids())
def test_it_is_had_by_name_without_a_download(tmp_path: Path, model_id: str) -> None:
    registry = Registry(tmp_path)

    zoo.pull(registry, model_id, report=lambda line: None)

    found = registry.resolve("embedder", model_id)
    assert found.card()
    assert registry.champion("embedder") is None  # the default stays the default
    embedder = Embedder(Session(found.model_path, SessionOptions("cpu", threads=1)), found.manifest)
    crops = list(np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8))
    np.testing.assert_allclose(np.linalg.norm(embedder.embed(crops), axis=1), 1, atol=1e-5)


def test_another_file_under_its_name_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not the model")

    with pytest.raises(SourceError, match="SHA-256"):
        zoo.pull(Registry(tmp_path / "models"), zoo.shipped_ids()[0], str(other))
