"""YuNet: faces with five landmarks in a photo of any size (Wu et al., Machine Intelligence Research 20, 2023).

The network was trained for faces of about 10 to 300 pixels. A photo is therefore looked at in up to three sizes: first
with its long side reduced to 640; where that finds nothing, also at 320 with a margin around it, for a face that fills
the picture; and where the photo is larger and the first look found nothing, or faces so small that smaller ones were
likely missed, at up to 1920. A face that was small in its look, though the photo has more pixels of it, is looked at
once more by itself, for its landmarks: two pixels off on a face of twenty are ten on one of a hundred.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.buckets import frame
from models.bundle import InputSpec
from models.image import Pixels
from models.preprocess import to_input
from models.runtime import Session

Floats = NDArray[np.float32]
_STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """Thresholds, sizes of the looks, and sizes of faces in pixels of a look.

    A face needs an anchor of `min_score`; those around it over `min_vote` have a say in where exactly it is.
    Under `small_face` smaller ones were likely missed; under `coarse_face` landmarks are worth a closer look, in which
    the face is to be `refined_face` high.
    """

    min_score: float = 0.7
    min_vote: float = 0.3
    max_overlap: float = 0.3
    same_face: float = 0.6
    first_side: int = 640
    close_side: int = 320
    fine_side: int = 1920
    small_face: float = 32.0
    coarse_face: float = 64.0
    refined_face: float = 112.0
    max_faces: int = 256

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the squares that all looks fit in, in pixels, ascending."""
        return self.close_side, self.first_side, self.fine_side


@dataclass(frozen=True, slots=True)
class Detections:
    """N faces: boxes (N, 4) as x1 y1 x2 y2, landmarks (N, 5, 2), scores (N,), in pixels of the photo, best first."""

    boxes: Floats
    landmarks: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """Finds faces. May be called from several threads."""

    def __init__(self, session: Session, spec: InputSpec, options: DetectorOptions | None = None) -> None:
        self._run: Callable[[Floats], dict[str, Floats]] = session.run
        self._device = session.device
        self._spec = spec
        self._options = options or DetectorOptions()

    def run_by(self, run: Callable[[Floats], dict[str, Floats]]) -> None:
        """From now on, what runs the network on one photo (1, 3, H, W)."""
        self._run = run

    def detect(self, image: Pixels) -> Detections:
        """Find faces.

        Args:
            image: uint8 RGB (H, W, 3), upright.

        Returns:
            Faces without duplicates, best score first; boxes are clipped to the photo, landmarks are not.
        """
        options = self._options
        long_side = max(image.shape[:2])
        votes = self._look(image, options.first_side)
        found = self._faces(votes)
        if len(found) == 0:
            found = self._faces(votes := self._look_close(image))
        if long_side > options.first_side and self._may_miss_small(found, long_side):
            found = self._faces(_concatenate(votes, self._look(image, options.fine_side)))
        return _clip(self._refined(image, found), image)

    def _may_miss_small(self, found: Detections, long_side: int) -> bool:
        if len(found) == 0:
            return True
        smallest = float((found.boxes[:, 3] - found.boxes[:, 1]).min())
        return smallest * self._options.first_side / long_side < self._options.small_face

    def _refined(self, image: Pixels, found: Detections) -> Detections:
        """The same faces, those that were small in their look replaced by what a closer look finds."""
        if len(found) == 0:
            return found
        closer = [self._closer(image, _take(found, np.array([index]))) for index in range(len(found))]
        return _concatenate(*closer)

    def _closer(self, image: Pixels, face: Detections) -> Detections:
        options = self._options
        height = float(face.boxes[0, 3] - face.boxes[0, 1])
        # The coarsest look that can have found it; a face that was large enough in that one needs no second.
        scale = min(1.0, options.first_side / max(image.shape[:2]))
        if height * scale >= options.coarse_face or scale == 1:
            return face
        x1, y1, x2, y2 = _surroundings(face.boxes[0], image)
        patch = image[y1:y2, x1:x2]
        side = round(max(patch.shape[:2]) * min(1.0, options.refined_face / height))
        seen = self._faces(self._look(patch, side))
        offset = np.array([x1, y1], np.float32)
        seen = Detections(seen.boxes + np.tile(offset, 2), seen.landmarks + offset, seen.scores)
        overlap = _overlap(seen.boxes, face.boxes[0])
        return _take(seen, np.array([overlap.argmax()])) if len(seen) and overlap.max() > 0.4 else face

    def _look_close(self, image: Pixels) -> Detections:
        """For a face that fills the picture: smaller, and with a margin in which its box may end."""
        # Reduced first: a margin around the photo itself could be a thousand times its size.
        return self._look(image, self._options.close_side * 3 // 5, margin=1 / 3)

    def _look(self, image: Pixels, side: int, margin: float = 0.0) -> Detections:
        """Look at the photo with its long side reduced to `side`, in a frame of `margin` times that."""
        scale = min(1.0, side / max(image.shape[:2]))
        height, width = (max(1, round(size * scale)) for size in image.shape[:2])
        small = image if scale == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        around = int(max(height, width) * margin)
        batch = self._input(cv2.copyMakeBorder(small, around, around, around, around, cv2.BORDER_CONSTANT))
        found = _decode(self._run(batch), batch.shape[3], self._options.min_vote)
        # Each axis has its own scale after rounding to whole pixels.
        ratio = np.array([image.shape[1] / width, image.shape[0] / height], np.float32)
        return Detections((found.boxes - around) * np.tile(ratio, 2), (found.landmarks - around) * ratio, found.scores)

    def _input(self, image: Pixels) -> Floats:
        """The photo with black to the right and below, up to what the network and its device take."""
        height, width = image.shape[:2]
        filled = frame(self._device, height, width, (self._spec.height, self._spec.width), self._options.sides)
        padded = np.zeros((*filled, 3), np.uint8)
        padded[:height, :width] = image
        return to_input([padded], self._spec.model_copy(update={"height": filled[0], "width": filled[1]}))

    def _faces(self, found: Detections) -> Detections:
        """One face for each cluster of anchors whose best is sure enough."""
        if not (found.scores >= self._options.min_score).any():
            return _take(found, np.arange(0))
        corners = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)
        kept = cv2.dnn.NMSBoxes(
            corners.tolist(), found.scores.tolist(), self._options.min_score, self._options.max_overlap
        )
        best = np.asarray(kept, dtype=np.int64).reshape(-1)[: self._options.max_faces]
        return _concatenate(*(self._blend(found, int(index)) for index in best))

    def _blend(self, found: Detections, best: int) -> Detections:
        """The face of one anchor, averaged with what the anchors around it say of the same face.

        Which anchor is best changes with the last bit of a pixel; their mean does not, and landmarks stay where they
        are when a photo is turned or compressed anew.
        """
        same = _overlap(found.boxes, found.boxes[best]) >= self._options.same_face
        weight = found.scores[same] / found.scores[same].sum()
        box = (found.boxes[same] * weight[:, None]).sum(axis=0)
        landmarks = (found.landmarks[same] * weight[:, None, None]).sum(axis=0)
        return Detections(box[None], landmarks[None], found.scores[best : best + 1])


def _decode(outputs: dict[str, Floats], width: int, min_score: float) -> Detections:
    """Anchors of the three strides to boxes and landmarks in input pixels, those under `min_score` left out."""
    return _concatenate(*(_decode_stride(outputs, stride, width // stride, min_score) for stride in _STRIDES))


def _decode_stride(outputs: dict[str, Floats], stride: int, columns: int, min_score: float) -> Detections:
    """One anchor a cell: centre (cell + offset) * stride, size exp(log size) * stride, score sqrt(class * object)."""
    is_face, is_object = (np.clip(outputs[f"{name}_{stride}"][0, :, 0], 0, 1) for name in ("cls", "obj"))
    scores = np.sqrt(is_face * is_object)
    (kept,) = np.nonzero(scores >= min_score)
    cells = np.stack([kept % columns, kept // columns], axis=1).astype(np.float32)  # (K, 2) as x, y
    box = outputs[f"bbox_{stride}"][0, kept]  # (K, 4)
    centre, half = (cells + box[:, :2]) * stride, np.exp(np.minimum(box[:, 2:], 10)) * stride / 2
    points = outputs[f"kps_{stride}"][0, kept].reshape(-1, 5, 2)
    landmarks = (points + cells[:, None]) * stride
    return Detections(np.concatenate([centre - half, centre + half], axis=1), landmarks, scores[kept])


def _surroundings(box: Floats, image: Pixels) -> tuple[int, int, int, int]:
    """The box with as much again around it, within the photo."""
    size = box[2:] - box[:2]
    limit = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(box[:2] - size / 2), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + size / 2), low + 1, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _overlap(boxes: Floats, box: Floats) -> Floats:
    """Intersection over union of each of (N, 4) with (4,)."""
    shared = np.prod(np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    iou: Floats = shared / np.maximum(areas - shared, 1e-9)
    return iou


def _concatenate(*parts: Detections) -> Detections:
    return Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.landmarks for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def _take(found: Detections, index: NDArray[np.int_]) -> Detections:
    return Detections(found.boxes[index], found.landmarks[index], found.scores[index])


def _clip(found: Detections, image: Pixels) -> Detections:
    """Boxes cut at the edge of the photo; those that lie outside it, or whose landmarks coincide, are dropped."""
    height, width = image.shape[:2]
    boxes = np.clip(found.boxes, 0, np.array([width, height, width, height], np.float32))
    spread = found.landmarks.std(axis=1).max(axis=1) if len(found) else np.zeros(0)
    sound = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (spread > 0.5)
    return _take(Detections(boxes, found.landmarks, found.scores), np.flatnonzero(sound))
