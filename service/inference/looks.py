"""Looks at several photos in one run of the detector, those of one square together.

Where the detector runs on an accelerator. A processor gains nothing by it: there each thread runs its own.
"""

from collections.abc import Sequence

import numpy as np

from models.buckets import bucket, warm_batches
from models.preprocess import Vectors
from models.runtime import Session
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import Crew
from service.tracing import NO_TRACES, Tracer

Outputs = dict[str, Vectors]
# Of photos in one run; those of 1920 x 1920 pixels go one by one.
_MOST_BYTES = 40 * 2**20
# Who asks is a thread that was let in with its photo, and waits: their number is the bound.
_UNBOUNDED = 2**31


class SharedLooks:
    """Runs a detector for whoever asks, on the crew's threads."""

    def __init__(self, session: Session, crew: Crew, max_batch: int, tracer: Tracer = NO_TRACES) -> None:
        self._session = session
        self._max_batch = max_batch
        options = BatcherOptions(max_batch, _UNBOUNDED, first_stage=True, predict=False)
        self._batcher: Batcher[Vectors, Outputs] = Batcher("detect", self._run_all, options, crew, tracer=tracer)

    def run(self, photo: Vectors) -> Outputs:
        """As Session.run of one photo (1, 3, H, W); blocks, and is for threads.

        Raises:
            NotReadyError: the server is stopping.
        """
        (future,) = self._batcher.submit([photo])
        return future.result()

    @property
    def waiting(self) -> int:
        """Photos in the queue."""
        return self._batcher.waiting

    def _run_all(self, photos: Sequence[Vectors]) -> list[Outputs]:
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place, photo in enumerate(photos):
            shapes.setdefault(photo.shape, []).append(place)
        found: list[Outputs] = [{} for _ in photos]
        for places in shapes.values():
            most = self._most(photos[places[0]].nbytes)
            for start in range(0, len(places), most):
                part = places[start : start + most]
                outputs = self._run_alike([photos[place] for place in part], most)
                for number, place in enumerate(part):
                    found[place] = {name: values[number : number + 1] for name, values in outputs.items()}
        return found

    def _most(self, photo_bytes: int) -> int:
        return max(1, min(self._max_batch, _MOST_BYTES // photo_bytes))

    def _run_alike(self, photos: Sequence[Vectors], most: int) -> Outputs:
        """Photos of one shape, filled up to a size of batch that the device takes."""
        missing = bucket(self._session.device, len(photos), most) - len(photos)
        return self._session.run(np.concatenate([*photos, *[np.zeros_like(photos[0])] * missing]))

    def warm_up(self, sides: Sequence[int]) -> None:
        """Run photos of so many pixels a side in all sizes of batch, so that no caller is the first."""
        for side in sides:
            photo = np.zeros((1, 3, side, side), np.float32)
            most = self._most(photo.nbytes)
            for size in warm_batches(self._session.device, most):
                self._run_alike([photo] * size, most)
