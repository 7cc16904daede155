"""Aligned crops to unit vectors."""

from collections.abc import Sequence

import numpy as np

from models.bundle import Manifest
from models.image import Pixels
from models.preprocess import Vectors, l2_normalize, to_input
from models.runtime import Session, check_embedder


class Embedder:
    """One embedding network. May be called from several threads."""

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self._session = session
        self.manifest = manifest
        self.template = manifest.alignment
        self.dimension = check_embedder(session, manifest.input.width, manifest.input.height, manifest.dimension)
        self._max_batch = session.fixed_batch

    def embed(self, crops: Sequence[Pixels]) -> Vectors:
        """Embed crops.

        Args:
            crops: N uint8 RGB arrays of the template's size.

        Returns:
            float32 (N, D), each row of L2 norm 1.

        Raises:
            ValueError: a crop of another size, or one whose vector is zero or not finite.
        """
        batch = to_input(crops, self.manifest.input)
        size = self._max_batch or len(batch)
        parts = [self._run(batch[start : start + size], size) for start in range(0, len(batch), size)]
        return l2_normalize(np.concatenate(parts))

    def _run(self, batch: Vectors, size: int) -> Vectors:
        """A graph with a fixed batch is fed whole batches; what was added is cut off again."""
        missing = size - len(batch)
        padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else batch
        (vectors,) = self._session.run(padded).values()
        return vectors[: len(batch)]
