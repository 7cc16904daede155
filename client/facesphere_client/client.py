"""The client that waits for its answers."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from facesphere_client import calls, folders
from facesphere_client.calls import Call, ImageFile, ProbeLike, Select, read_image, read_probe
from facesphere_client.errors import ConnectionFailedError, FacesphereError, NotReadyError, ProtocolError
from facesphere_client.folders import Progress, Shown, counted
from facesphere_client.options import Options, Tls, split_url
from facesphere_client.pooled import Item, over_threads
from facesphere_client.retry import Attempts, Retry
from facesphere_client.values import (
    Collection,
    EmbeddedPhoto,
    Enrolment,
    Identification,
    Job,
    ModelDetail,
    Outcome,
    Photo,
    Receipt,
    Subject,
    SubjectSummary,
    Verification,
)

T = TypeVar("T")


class Transport(Protocol):
    """What carries calls."""

    def send(self, call: Call[T]) -> T:
        """Ask once."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Client:
    """A Facesphere server, over REST (http://, https://) or gRPC (grpc://, grpcs://). Threads may share it.

    Images are the bytes of a file, or where it lies; where a probe is asked for, a vector will do as well: an array,
    an `Embedding`, or a face that `embed` has answered.

    Every call raises FacesphereError where there is no answer or one that refuses, after the attempts of `retry`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        tls: Tls | None = None,
        concurrency: int = 16,
        trust_env: bool = True,
    ) -> None:
        """Nothing is sent until the first call.

        Args:
            url: of the server.
            key: an API key.
            timeout_s: for one attempt at one call.
            retry: when a call is made again; `NEVER` for not at all.
            tls: certificates, where those of the system do not do.
            concurrency: how many photos are under way at once in the calls about many.
            trust_env: whether REST goes by HTTP_PROXY and its like.
        """
        self._options = Options(key, timeout_s, retry or Retry(), tls, concurrency, trust_env)
        self._transport = _transport(url, self._options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def ready(self) -> bool:
        """Whether the server can be reached and is serving. Asked once."""
        try:
            return self._transport.send(calls.Ready())
        except (NotReadyError, ConnectionFailedError, ProtocolError):
            return False

    def detect(self, image: ImageFile) -> Photo:
        """The faces of a photo, largest first; none is no error."""
        return self._call(calls.Detect(read_image(image)))

    def embed(self, image: ImageFile, *, faces: Select = "all", aligned: bool = False) -> EmbeddedPhoto:
        """The same with embeddings. `aligned`: the image is a crop already, and not searched for faces."""
        return self._call(calls.Embed(read_image(image), faces, aligned))

    def verify(
        self, a: ProbeLike, b: ProbeLike, *, target_fmr: float | None = None, threshold: float | None = None
    ) -> Verification:
        """Are two probes one person? Decided at a false-match rate, or at a cosine; neither: the server's own rate."""
        return self._call(calls.Verify(read_probe(a), read_probe(b), target_fmr, threshold))

    def collections(self) -> tuple[Collection, ...]:
        """All collections that the key is for."""
        return self._call(calls.ListCollections())

    def put_collection(
        self,
        name: str,
        purpose: str,
        *,
        retention_days: int | None = None,
        store_crops: bool = False,
        target_fmr: float | None = None,
        require_consent: bool = False,
    ) -> Collection:
        """Create a collection, or change its settings to these."""
        return self._call(calls.PutCollection(name, purpose, retention_days, store_crops, target_fmr, require_consent))

    def collection(self, name: str) -> Collection:
        """One collection."""
        return self._call(calls.GetCollection(name))

    def delete_collection(self, name: str) -> Receipt:
        """Erase a collection with all its people."""
        return self._call(calls.DeleteCollection(name))

    def enrol(
        self,
        collection: str,
        subject: str,
        *probes: ProbeLike,
        consent: str | None = None,
        idempotency_key: str | None = None,
    ) -> Enrolment:
        """Enrol a person by 1 to 20 probes; `consent` refers to theirs. When this returns, it is on the disk.

        Under the same `idempotency_key` nobody is enrolled twice; without one, each call has its own, so that it can be
        made again where its answer was lost.
        """
        key = idempotency_key or calls.new_key()
        read = tuple(read_probe(each) for each in probes)
        return self._call(calls.Enrol(collection, subject, read, consent, key))

    def subject(self, collection: str, subject: str) -> Subject:
        """An enrolled person."""
        return self._call(calls.GetSubject(collection, subject))

    def subjects(self, collection: str, *, page_size: int = 1000) -> Iterator[SubjectSummary]:
        """All people of a collection by name, asked for page by page."""
        cursor: str | None = None
        while True:
            page = self._call(calls.ListSubjects(collection, cursor, page_size))
            yield from page.subjects
            cursor = page.next_cursor
            if cursor is None:
                return

    def delete_subject(self, collection: str, subject: str) -> Receipt:
        """Erase a person."""
        return self._call(calls.DeleteSubject(collection, subject))

    def delete_face(self, collection: str, subject: str, face_id: str) -> Receipt:
        """Erase one face of a person."""
        return self._call(calls.DeleteFace(collection, subject, face_id))

    def identify(
        self,
        collection: str,
        probe: ProbeLike,
        *,
        limit: int = 5,
        target_fpir: float | None = None,
        threshold: float | None = None,
    ) -> Identification:
        """Who is the largest face? Decided at a rate of strangers who are named, or at a cosine."""
        call = calls.Identify(collection, read_probe(probe), limit, target_fpir, threshold)
        return self._call(call)[0]

    def identify_all(
        self,
        collection: str,
        image: ImageFile,
        *,
        limit: int = 5,
        target_fpir: float | None = None,
        threshold: float | None = None,
    ) -> tuple[Identification, ...]:
        """Who is each face of a photo?"""
        return self._call(calls.Identify(collection, read_image(image), limit, target_fpir, threshold, "all"))

    def verify_subject(
        self,
        collection: str,
        subject: str,
        probe: ProbeLike,
        *,
        target_fmr: float | None = None,
        threshold: float | None = None,
    ) -> Verification:
        """Is this the enrolled person?"""
        return self._call(calls.VerifySubject(collection, subject, read_probe(probe), target_fmr, threshold))

    def models(self) -> tuple[ModelDetail, ...]:
        """The models of the server's registry."""
        return self._call(calls.ListModels())

    def activate_model(self, model_id: str) -> Job:
        """Serve a model; the collections follow in the background."""
        return self._call(calls.ActivateModel(model_id))

    def roll_back_model(self) -> Job:
        """Serve the model before the present one."""
        return self._call(calls.RollBackModel())

    def job(self, job_id: str) -> Job:
        """How far a job is."""
        return self._call(calls.GetJob(job_id))

    def jobs(self, limit: int = 20) -> tuple[Job, ...]:
        """The newest jobs, newest first."""
        return self._call(calls.ListJobs(limit))

    def wait_for_job(self, job_id: str, *, timeout_s: float = 3600.0, every_s: float = 0.5) -> Job:
        """The job when it has ended, well or not; TimeoutError if it goes on for longer than that."""
        end = time.monotonic() + timeout_s
        while not (job := self.job(job_id)).ended:
            if time.monotonic() + every_s > end:
                raise TimeoutError(f"job {job_id} is {job.state} after {timeout_s:g} s")
            time.sleep(every_s)
        return job

    def embed_many(
        self, photos: Iterable[tuple[str, ImageFile]], *, faces: Select = "all", aligned: bool = False
    ) -> Iterator[Outcome[EmbeddedPhoto]]:
        """Embeddings of many photos, each under an id of the caller, as they are done. One that fails ends nothing."""
        return self._many(calls.Embed, ((key, image, calls.embedding(faces, aligned)) for key, image in photos))

    def enrol_many(
        self,
        collection: str,
        people: Iterable[tuple[str, str, ImageFile]],
        *,
        consent: str | None = None,
        idempotency_key: str | None = None,
    ) -> Iterator[Outcome[Enrolment]]:
        """Enrol many photos: an id, whose it is, and the photo. Each is on the server's disk when its outcome comes.

        Under the same `idempotency_key` a photo of the same id and person is not enrolled twice, so that what was
        stopped can be begun again.
        """
        keys = calls.keys_of_items(idempotency_key)
        items = (
            (key, image, calls.enrolling(collection, subject, consent, keys(key))) for key, subject, image in people
        )
        return self._many(calls.Enrol, items)

    def identify_many(
        self,
        collection: str,
        photos: Iterable[tuple[str, ImageFile]],
        *,
        faces: Select = "largest",
        limit: int = 5,
        target_fpir: float | None = None,
        threshold: float | None = None,
    ) -> Iterator[Outcome[tuple[Identification, ...]]]:
        """Who is in each of many photos? An answer a face."""

        def make(image: bytes) -> Call[tuple[Identification, ...]]:
            return calls.Identify(collection, image, limit, target_fpir, threshold, faces)

        return self._many(calls.Identify, ((key, image, make) for key, image in photos))

    def embed_folder(
        self, folder: str | os.PathLike[str], *, faces: Select = "all", progress: Progress = False
    ) -> Iterator[Outcome[EmbeddedPhoto]]:
        """Embeddings of all photos in a folder and below, as they are done; their paths in it are the ids."""
        root = Path(folder)
        found = folders.photos(root)
        outcomes = self.embed_many(((path.relative_to(root).as_posix(), path) for path in found), faces=faces)
        return _shown("embed", outcomes, len(found), progress)

    def enrol_folder(
        self,
        collection: str,
        folder: str | os.PathLike[str],
        *,
        consent: str | None = None,
        idempotency_key: str | None = None,
        progress: Progress = False,
    ) -> Iterator[Outcome[Enrolment]]:
        """Enrol all photos of a folder of folders, PERSON/PHOTO.jpg; their paths in it are the ids.

        `idempotency_key`: as in `enrol_many`.
        """
        root = Path(folder)
        found = folders.people(root)
        items = ((path.relative_to(root).as_posix(), name, path) for name, path in found)
        outcomes = self.enrol_many(collection, items, consent=consent, idempotency_key=idempotency_key)
        return _shown("enrol", outcomes, len(found), progress)

    def _call(self, call: Call[T]) -> T:
        attempts = Attempts(self._options.retry, call.repeatable)
        while True:
            try:
                return self._transport.send(call)
            except FacesphereError as error:
                time.sleep(attempts.after(error))

    def _many(self, kind: type[Call[T]], items: Iterable[tuple[str, ImageFile, Any]]) -> Iterator[Outcome[T]]:
        source = (_item(*each) for each in items)
        transport: Any = self._transport
        if not hasattr(transport, "stream"):
            return over_threads(self._call, source, self._options.concurrency)
        from facesphere_client.streams import over_stream

        return over_stream(lambda: transport.stream(kind), self._call, source, self._options)


def _transport(url: str, options: Options) -> Transport:
    protocol, address, secure = split_url(url)
    if protocol == "rest":
        from facesphere_client.rest import RestTransport

        return RestTransport(address, options)
    try:
        from facesphere_client.grpc_transport import GrpcTransport
    except ImportError as error:
        raise ImportError(f"gRPC needs more packages: pip install 'facesphere-client[grpc]' ({error})") from error
    return GrpcTransport(address, secure, options)


def _item(key: str, image: ImageFile, make: Any) -> Item[Any]:
    """A call about an image that is read now, or why it cannot be."""
    try:
        return key, make(read_image(image))
    except FacesphereError as error:
        return key, error


def _shown(what: str, outcomes: Iterator[Outcome[T]], total: int, progress: Progress) -> Iterator[Outcome[T]]:
    with Shown(what, total, progress) as shown:
        yield from counted(outcomes, shown)
