"""CompreFace 0.6 and later: a dump of its database, what its REST API answered as files, or a running one.

Tables (its Liquibase changelogs db.changelog-0.1.7 and following): subject (id, api_key, subject_name), img (id,
content, subject_id), embedding (id, subject_id, embedding, calculator, img_id), model (name, guid, api_key, type). A
recognition service is a model, and its api_key stands in its subjects.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.commands.importing.pgdump import Dump, Place
from service.commands.importing.source import BadRecordError, NoPhotoError, Source, SourcePhoto
from service.errors import InvalidRequestError

_TABLES = frozenset({"subject", "img", "embedding", "model"})


def read(source: str, service: str | None, source_key: str | None) -> Source:
    """What SOURCE holds.

    Raises:
        InvalidRequestError: it is none of what is understood.
    """
    if source.startswith(("http://", "https://")):
        from service.commands.importing.compreface_api import read_running  # httpx is for this alone

        return read_running(source, source_key)
    path = Path(source)
    return _folder(path) if path.is_dir() else _dump(path, service)


@dataclass(frozen=True, slots=True)
class _Face:
    """An example of a person: their subject's id, and where its image lies, if it has one."""

    subject: str
    image: str | None
    calculator: str | None


def _dump(path: Path, service: str | None) -> Source:
    dump = Dump(path, _TABLES)
    if not {"subject", "embedding"} <= dump.tables:
        raise InvalidRequestError(
            f"{path} has no tables subject and embedding with their rows: it is no dump of CompreFace 0.6 or later"
        )
    problems: list[str] = []
    names = _subjects(dump, service, problems)
    images = _images(dump, problems)
    faces = [face for face in _faces(dump, images, problems) if face.subject in names]
    photos = [
        SourcePhoto(face.image, names[face.subject], _reader(dump, images[face.image][0]))
        for face in faces
        if face.image is not None
    ]
    vectors = Counter(names[face.subject] for face in faces if face.image is None)
    calculators = sorted({face.calculator for face in faces if face.calculator})
    return Source("compreface", photos, vectors, " and ".join(calculators) or "another model", problems)


def _subjects(dump: Dump, service: str | None, problems: list[str]) -> dict[str, str]:
    """Names by id, of one recognition service."""
    found: dict[str, tuple[str, str]] = {}
    for _, row in dump.rows("subject", "id", "api_key", "subject_name"):
        if isinstance(row, BadRecordError) or row[0] is None or not row[2]:
            problems.append(f"a subject: {row if isinstance(row, BadRecordError) else 'it has no id or no name'}")
        else:
            found[row[0]] = (row[1] or "", row[2])
    key = _service_key(dump, service, {key for key, _ in found.values()})
    return {uid: name for uid, (owner, name) in found.items() if owner == key}


def _service_key(dump: Dump, service: str | None, keys: set[str]) -> str:
    services: dict[str, tuple[str, str]] = {}
    for _, row in dump.rows("model", "api_key", "name", "guid"):
        if not isinstance(row, BadRecordError) and row[0] is not None:
            services[row[0]] = (row[1] or "", row[2] or "")
    known = {key: services.get(key, ("", "")) for key in keys}
    chosen = [key for key, names in known.items() if service is None or service in (key, *names)]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(sorted(repr(name or guid or "without a name") for name, guid in known.values())) or "none"
    if not chosen:
        raise InvalidRequestError(f"there is no recognition service {service!r} with people; there are: {listed}")
    raise InvalidRequestError(f"several recognition services have people, say which by --service: {listed}")


def _images(dump: Dump, problems: list[str]) -> dict[str, tuple[Place, str | None]]:
    """Place and subject of each image by its id."""
    found: dict[str, tuple[Place, str | None]] = {}
    for place, row in dump.rows("img", "id", "subject_id"):
        if isinstance(row, BadRecordError) or row[0] is None:
            problems.append(f"an image: {row if isinstance(row, BadRecordError) else 'it has no id'}")
        else:
            found[row[0]] = (place, row[1])
    return found


def _faces(dump: Dump, images: Mapping[str, Any], problems: list[str]) -> Iterator[_Face]:
    """Each example once: by its embedding, and by its image where that has none."""
    seen: set[str] = set()
    for _, row in dump.rows("embedding", "subject_id", "img_id", "calculator"):
        if isinstance(row, BadRecordError) or row[0] is None:
            problems.append(f"an embedding: {row if isinstance(row, BadRecordError) else 'it is of nobody'}")
            continue
        image = row[1] if row[1] in images else None
        if image is not None:
            seen.add(image)
        yield _Face(row[0], image, row[2])
    for image, (_, subject) in images.items():
        if subject is not None and image not in seen:
            yield _Face(subject, image, None)


def _reader(dump: Dump, place: Place) -> Any:
    def image() -> bytes:
        content = dump.bytes_at("img", place, "content")
        if not content:
            raise NoPhotoError
        return content

    return image


def _folder(folder: Path) -> Source:
    """Answers of GET /api/v1/recognition/faces as *.json, and images whose names without suffix are their ids."""
    files = {path.stem: path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    pages, problems = [], list[str]()
    for path in sorted(folder.glob("*.json")):
        try:
            pages.append(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: {error}")
    if not pages:
        raise InvalidRequestError(f"{folder} has no *.json with the answer of GET /api/v1/recognition/faces")
    photos, vectors = [], Counter[str]()
    for image, subject in listed(pages, problems):
        if image in files:
            photos.append(SourcePhoto(image, subject, files[image].read_bytes))
        else:
            vectors[subject] += 1
    return Source("compreface", photos, vectors, problems=problems)


def listed(pages: list[Any], problems: list[str]) -> Iterator[tuple[str, str]]:
    """image_id and subject of each example in answers of GET /api/v1/recognition/faces."""
    for page in pages:
        faces = page.get("faces") if isinstance(page, dict) else None
        if not isinstance(faces, list):
            problems.append("an answer has no list of faces")
            continue
        for face in faces:
            image, subject = (face.get("image_id"), face.get("subject")) if isinstance(face, dict) else (None, None)
            if isinstance(image, str) and isinstance(subject, str) and subject:
                yield image, subject
            else:
                problems.append("an example has no image_id or no subject")
