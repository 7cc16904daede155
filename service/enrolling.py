"""What an enrolment is made of: the faces of its probes, and what is wrong with the others."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from models.errors import (
    FaceError,
    ImageTooLargeError,
    InvalidImageError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from models.image import Pixels
from service.domain import EmbeddedFace, NewFace, Probe, Rejected
from service.errors import FaceNotFoundError, InvalidRequestError
from service.faces import Faces

MAX_IMAGES = 20
# What rejects one photo of an enrolment. Anything else, an overload for one, is no fault of the photo.
FAULTS_OF_A_PHOTO = (
    InvalidImageError,
    UnsupportedMediaTypeError,
    PayloadTooLargeError,
    ImageTooLargeError,
    FaceNotFoundError,
)


@dataclass(frozen=True, slots=True)
class Form:
    """What the faces of an enrolment have in common."""

    consent: str | None
    store_crops: bool
    idempotency_key: str | None

    def request(self, index: int) -> str | None:
        """What the request for the image of this index is known by."""
        return None if self.idempotency_key is None else f"{index} of {self.idempotency_key}"


async def new_faces(
    faces: Faces, probes: Sequence[Probe], form: Form
) -> tuple[list[NewFace], list[Rejected], FaceError | None]:
    """The faces of those probes that have one, what is wrong with the others, and the first error among that."""
    outcomes = await asyncio.gather(
        *(_new_face_or_error(faces, probe, form, index) for index, probe in enumerate(probes))
    )
    errors = [(index, each) for index, each in enumerate(outcomes) if isinstance(each, FaceError)]
    new = [each for each in outcomes if isinstance(each, NewFace)]
    rejected = [Rejected(index, error.code, error.message) for index, error in errors]
    return new, rejected, errors[0][1] if errors else None


def check_enrolment(subject: str, probes: Sequence[Probe], form: Form) -> None:
    """Raises InvalidRequestError where it cannot be one."""
    if not 1 <= len(subject) <= 256 or not subject.isprintable() or "/" in subject or subject in (".", ".."):
        raise InvalidRequestError("a subject's name has 1 to 256 printable characters without '/'", field="subject")
    if not subject.strip() or "\N{REPLACEMENT CHARACTER}" in subject:  # the latter stands for bytes that are no UTF-8
        raise InvalidRequestError("a subject's name is neither blank nor badly encoded", field="subject")
    if not 1 <= len(probes) <= MAX_IMAGES:
        raise InvalidRequestError(f"enrol 1 to {MAX_IMAGES} images at a time, got {len(probes)}", field="images")
    if form.consent is not None and not (1 <= len(form.consent) <= 500 and form.consent.isprintable()):
        raise InvalidRequestError("consent is a reference of 1 to 500 printable characters", field="consent")
    key = form.idempotency_key
    if key is not None and not (1 <= len(key) <= 200 and key.isprintable()):
        raise InvalidRequestError("idempotency_key has 1 to 200 printable characters", field="idempotency_key")


async def _new_face_or_error(faces: Faces, probe: Probe, form: Form, index: int) -> NewFace | FaceError:
    try:
        return await _new_face(faces, probe, form, form.request(index))
    except FAULTS_OF_A_PHOTO as error:
        return error


async def _new_face(faces: Faces, probe: Probe, form: Form, request: str | None) -> NewFace:
    if probe.image is None:
        embedded = await faces.embed_probe(probe)
        return NewFace(embedded.embedding, None, form.consent, None, request, await _content(probe, form))
    face = await _largest(faces, probe.image)
    crop = _png(face.crop) if form.store_crops else None
    return NewFace(face.embedding, face.face.quality, form.consent, crop, request, await _content(probe, form))


async def _content(probe: Probe, form: Form) -> str:
    """What tells one enrolment from another under the same key; of a large photo it takes milliseconds."""
    if form.idempotency_key is None:
        return ""
    sent = probe.image if probe.image is not None else np.asarray(probe.embedding, "<f8").tobytes()
    digest = hashlib.sha256(hashlib.sha256((form.consent or "").encode()).digest())
    await asyncio.to_thread(digest.update, sent)
    return digest.hexdigest()


async def _largest(faces: Faces, image: bytes) -> EmbeddedFace:
    photo = await faces.embed(image, "largest")
    if not photo.faces:
        raise FaceNotFoundError("there is no face in the image")
    return photo.faces[0]


def _png(crop: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1])
