"""Aligned crops to unit vectors."""

from collections.abc import Sequence

import numpy as np

from models.buckets import bucket
from models.bundle import Manifest
from models.image import Pixels
from models.preprocess import Vectors, l2_normalize, to_input
from models.runtime import Session, check_embedder


class Embedder:
    """One embedding network. May be called from several threads."""

    def __init__(self, session: Session, manifest: Manifest, max_batch: int = 8) -> None:
        if session.precision != manifest.precision:
            raise ValueError(f"{manifest.id} is of {manifest.precision}, the session of {session.precision}")
        self._session = session
        self.manifest = manifest
        self.template = manifest.alignment
        self._max_batch = max_batch * (2 if manifest.mirror else 1)
        self._at_once: int | None = None
        spec = manifest.input
        self.dimension = check_embedder(session, spec.width, spec.height, manifest.dimension, self._max_batch)

    def run_at_once(self, most: int) -> None:
        """From now on run the network for so many crops at a time, however many are to be embedded."""
        self._at_once = most

    def embed(self, crops: Sequence[Pixels]) -> Vectors:
        """Embed crops; where the manifest says `mirror`, each with its mirror image.

        With mirror images v = f(x) + f(flip x), raw outputs added and the sum then scaled: a photo of low quality has a
        short raw vector in margin-trained networks, and the view that the network knows less about then counts less.

        Args:
            crops: N uint8 RGB arrays of the template's size.

        Returns:
            float32 (N, D), each row of L2 norm 1.

        Raises:
            ValueError: a crop of another size, or one whose vector is zero or not finite.
        """
        most = self._at_once or len(crops)
        if len(crops) <= most:
            return self._embed(crops)
        return np.concatenate([self._embed(crops[start : start + most]) for start in range(0, len(crops), most)])

    def _embed(self, crops: Sequence[Pixels]) -> Vectors:
        batch = to_input(crops, self.manifest.input)
        if not self.manifest.mirror:
            return l2_normalize(self._raw(batch))
        both = self._raw(np.concatenate([batch, batch[..., ::-1]]))
        return l2_normalize(both[: len(batch)] + both[len(batch) :])

    def _raw(self, batch: Vectors) -> Vectors:
        size = self._session.fixed_batch or len(batch)
        parts = [self._run(batch[start : start + size]) for start in range(0, len(batch), size)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, batch: Vectors) -> Vectors:
        """Filled up to the size that the graph or the device takes; what was added is cut off again."""
        size = self._session.fixed_batch or bucket(self._session.device, len(batch), self._max_batch)
        missing = size - len(batch)
        padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else batch
        (vectors,) = self._session.run(padded).values()
        return vectors[: len(batch)]
