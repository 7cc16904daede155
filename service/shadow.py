"""A candidate on a share of the traffic: what would it have decided? Nothing is answered from it.

Of 1:1 comparisons of two photos (POST /verify, Verify) a share is done again with the candidate, after the answer and
behind everything else, at the same false-match rate. Comparisons with enrolled people are left out: they have no
vectors of the candidate before it is activated, and what changes for them is told by the job that does.
"""

import asyncio
import logging
import random
from dataclasses import asdict, dataclass, replace

from models.errors import FaceError
from service.domain import Criterion, Probe, Verification
from service.errors import InvalidRequestError, NotFoundError
from service.faces import Faces, cosine
from service.inference.urgency import in_bulk
from service.served import Loaded, Served

log = logging.getLogger("facesphere.models")
_MOST_PENDING = 4  # comparisons under way; what comes on top is left out, and counted


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """What was compared since the candidate was set.

    flipped_to_match, flipped_to_non_match: decisions that the candidate alone would have made so; mean_shift: of the
    cosine, the candidate's less the answer's; failed: no answer of the candidate; left_out: too many were under way.
    """

    model_id: str
    share: float
    compared: int = 0
    same: int = 0
    flipped_to_match: int = 0
    flipped_to_non_match: int = 0
    failed: int = 0
    left_out: int = 0
    mean_shift: float = 0.0

    def document(self) -> dict[str, object]:
        """As it is told."""
        return asdict(self)


class Shadow:
    """At most one candidate at a time; used in one event loop."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._loaded: Loaded | None = None
        self._summary: ShadowSummary | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._chance = random.Random()  # noqa: S311  (which calls are looked at is no secret)

    @property
    def summary(self) -> ShadowSummary | None:
        """What was found; None without a candidate."""
        return self._summary

    async def begin(self, model_id: str, share: float) -> ShadowSummary:
        """Compare a share of the decisions with a candidate's, from now on.

        Raises:
            InvalidRequestError: the share is not above 0 and at most 1.
            FaceError: the model is not there, or cannot be used.
        """
        if not 0 < share <= 1:
            raise InvalidRequestError(f"share must be above 0 and at most 1, got {share}", field="share")
        loaded = await asyncio.to_thread(self._served.load_aside, model_id)
        await self._leave()
        self._loaded = loaded
        self._summary = ShadowSummary(model_id, share)
        return self._summary

    async def end(self) -> ShadowSummary:
        """No candidate any more; what was found.

        Raises:
            NotFoundError: there is none.
        """
        if self._summary is None:
            raise NotFoundError("no model is in shadow")
        found = self._summary
        await self._leave()
        return found

    def look(self, a: Probe, b: Probe, criterion: Criterion, answer: Verification) -> None:
        """Perhaps compare a decision that was just answered."""
        loaded, summary = self._loaded, self._summary
        if loaded is None or summary is None or a.image is None or b.image is None or criterion.threshold is not None:
            return
        if self._chance.random() >= summary.share:
            return
        if len(self._pending) >= _MOST_PENDING:
            self._summary = replace(summary, left_out=summary.left_out + 1)
            return
        task = asyncio.ensure_future(self._compare(loaded.faces, a, b, Criterion(answer.target_fmr), answer))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        """Give up what is under way, and give the candidate free."""
        await self._leave()

    async def _leave(self) -> None:
        loaded, self._loaded, self._summary = self._loaded, None, None
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        if loaded is not None:
            await asyncio.to_thread(loaded.close)

    async def _compare(self, faces: Faces, a: Probe, b: Probe, criterion: Criterion, answer: Verification) -> None:
        try:
            with in_bulk():
                first, second = await asyncio.gather(faces.embed_probe(a), faces.embed_probe(b))
            similarity = cosine(first.embedding, second.embedding)
            other = _Other(similarity, similarity >= faces.decide(criterion).threshold)
        except FaceError as error:
            log.debug("the model in shadow gave no answer: %s", error.message)
            other = None
        except Exception:  # whatever it is, nobody waits for it
            log.exception("the model in shadow")
            other = None
        if self._loaded is not None and self._loaded.faces is faces and self._summary is not None:
            self._summary = _counted(self._summary, answer, other)


@dataclass(frozen=True, slots=True)
class _Other:
    """What the candidate would have said. Not a verification, which would be counted as one that was answered."""

    similarity: float
    matched: bool


def _counted(summary: ShadowSummary, answer: Verification, other: _Other | None) -> ShadowSummary:
    if other is None:
        return replace(summary, failed=summary.failed + 1)
    compared = summary.compared + 1
    shift = other.similarity - answer.similarity
    return replace(
        summary,
        compared=compared,
        same=summary.same + (other.matched == answer.matched),
        flipped_to_match=summary.flipped_to_match + (other.matched and not answer.matched),
        flipped_to_non_match=summary.flipped_to_non_match + (answer.matched and not other.matched),
        mean_shift=summary.mean_shift + (shift - summary.mean_shift) / compared,
    )
