"""The client for an event loop: the same calls as client.py, awaited."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from facesphere_client import calls, folders
from facesphere_client.calls import Call, ImageFile, Probe, ProbeLike, Select, read_image, read_probe
from facesphere_client.errors import ConnectionFailedError, FacesphereError, NotReadyError, ProtocolError
from facesphere_client.folders import Progress, Shown
from facesphere_client.options import Options, Tls, split_url
from facesphere_client.pooled import Item, over_tasks
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


class AsyncTransport(Protocol):
    """What carries calls."""

    async def send(self, call: Call[T]) -> T:
        """Ask once."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class AsyncClient:
    """`Client` in an event loop: its connections belong to the loop of the first call. Files are read in threads."""

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

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def ready(self) -> bool:
        """Whether the server can be reached and is serving. Asked once."""
        try:
            return await self._transport.send(calls.Ready())
        except (NotReadyError, ConnectionFailedError, ProtocolError):
            return False

    async def detect(self, image: ImageFile) -> Photo:
        """The faces of a photo, largest first; none is no error."""
        return await self._call(calls.Detect(await _image(image)))

    async def embed(self, image: ImageFile, *, faces: Select = "all", aligned: bool = False) -> EmbeddedPhoto:
        """The same with embeddings. `aligned`: the image is a crop already, and not searched for faces."""
        return await self._call(calls.Embed(await _image(image), faces, aligned))

    async def verify(
        self, a: ProbeLike, b: ProbeLike, *, target_fmr: float | None = None, threshold: float | None = None
    ) -> Verification:
        """Are two probes one person? Decided at a false-match rate, or at a cosine; neither: the server's own rate."""
        return await self._call(calls.Verify(await _probe(a), await _probe(b), target_fmr, threshold))

    async def collections(self) -> tuple[Collection, ...]:
        """All collections that the key is for."""
        return await self._call(calls.ListCollections())

    async def put_collection(
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
        return await self._call(
            calls.PutCollection(name, purpose, retention_days, store_crops, target_fmr, require_consent)
        )

    async def collection(self, name: str) -> Collection:
        """One collection."""
        return await self._call(calls.GetCollection(name))

    async def delete_collection(self, name: str) -> Receipt:
        """Erase a collection with all its people."""
        return await self._call(calls.DeleteCollection(name))

    async def enrol(
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
        read = tuple([await _probe(each) for each in probes])
        return await self._call(calls.Enrol(collection, subject, read, consent, key))

    async def subject(self, collection: str, subject: str) -> Subject:
        """An enrolled person."""
        return await self._call(calls.GetSubject(collection, subject))

    async def subjects(self, collection: str, *, page_size: int = 1000) -> AsyncIterator[SubjectSummary]:
        """All people of a collection by name, asked for page by page."""
        cursor: str | None = None
        while True:
            page = await self._call(calls.ListSubjects(collection, cursor, page_size))
            for each in page.subjects:
                yield each
            cursor = page.next_cursor
            if cursor is None:
                return

    async def delete_subject(self, collection: str, subject: str) -> Receipt:
        """Erase a person."""
        return await self._call(calls.DeleteSubject(collection, subject))

    async def delete_face(self, collection: str, subject: str, face_id: str) -> Receipt:
        """Erase one face of a person."""
        return await self._call(calls.DeleteFace(collection, subject, face_id))

    async def identify(
        self,
        collection: str,
        probe: ProbeLike,
        *,
        limit: int = 5,
        target_fpir: float | None = None,
        threshold: float | None = None,
    ) -> Identification:
        """Who is the largest face? Decided at a rate of strangers who are named, or at a cosine."""
        call = calls.Identify(collection, await _probe(probe), limit, target_fpir, threshold)
        return (await self._call(call))[0]

    async def identify_all(
        self,
        collection: str,
        image: ImageFile,
        *,
        limit: int = 5,
        target_fpir: float | None = None,
        threshold: float | None = None,
    ) -> tuple[Identification, ...]:
        """Who is each face of a photo?"""
        return await self._call(calls.Identify(collection, await _image(image), limit, target_fpir, threshold, "all"))

    async def verify_subject(
        self,
        collection: str,
        subject: str,
        probe: ProbeLike,
        *,
        target_fmr: float | None = None,
        threshold: float | None = None,
    ) -> Verification:
        """Is this the enrolled person?"""
        return await self._call(calls.VerifySubject(collection, subject, await _probe(probe), target_fmr, threshold))

    async def models(self) -> tuple[ModelDetail, ...]:
        """The models of the server's registry."""
        return await self._call(calls.ListModels())

    async def activate_model(self, model_id: str) -> Job:
        """Serve a model; the collections follow in the background."""
        return await self._call(calls.ActivateModel(model_id))

    async def roll_back_model(self) -> Job:
        """Serve the model before the present one."""
        return await self._call(calls.RollBackModel())

    async def job(self, job_id: str) -> Job:
        """How far a job is."""
        return await self._call(calls.GetJob(job_id))

    async def jobs(self, limit: int = 20) -> tuple[Job, ...]:
        """The newest jobs, newest first."""
        return await self._call(calls.ListJobs(limit))

    async def wait_for_job(self, job_id: str, *, timeout_s: float = 3600.0, every_s: float = 0.5) -> Job:
        """The job when it has ended, well or not; TimeoutError if it goes on for longer than that."""
        end = time.monotonic() + timeout_s
        while not (job := await self.job(job_id)).ended:
            if time.monotonic() + every_s > end:
                raise TimeoutError(f"job {job_id} is {job.state} after {timeout_s:g} s")
            await asyncio.sleep(every_s)
        return job

    def embed_many(
        self, photos: Iterable[tuple[str, ImageFile]], *, faces: Select = "all", aligned: bool = False
    ) -> AsyncGenerator[Outcome[EmbeddedPhoto], None]:
        """Embeddings of many photos, each under an id of the caller, as they are done. One that fails ends nothing."""
        return self._many(calls.Embed, ((key, image, calls.embedding(faces, aligned)) for key, image in photos))

    def enrol_many(
        self,
        collection: str,
        people: Iterable[tuple[str, str, ImageFile]],
        *,
        consent: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncGenerator[Outcome[Enrolment], None]:
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
    ) -> AsyncGenerator[Outcome[tuple[Identification, ...]], None]:
        """Who is in each of many photos? An answer a face."""

        def make(image: bytes) -> Call[tuple[Identification, ...]]:
            return calls.Identify(collection, image, limit, target_fpir, threshold, faces)

        return self._many(calls.Identify, ((key, image, make) for key, image in photos))

    def embed_folder(
        self, folder: str | os.PathLike[str], *, faces: Select = "all", progress: Progress = False
    ) -> AsyncGenerator[Outcome[EmbeddedPhoto], None]:
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
    ) -> AsyncGenerator[Outcome[Enrolment], None]:
        """Enrol all photos of a folder of folders, PERSON/PHOTO.jpg; their paths in it are the ids.

        `idempotency_key`: as in `enrol_many`.
        """
        root = Path(folder)
        found = folders.people(root)
        items = ((path.relative_to(root).as_posix(), name, path) for name, path in found)
        outcomes = self.enrol_many(collection, items, consent=consent, idempotency_key=idempotency_key)
        return _shown("enrol", outcomes, len(found), progress)

    async def _call(self, call: Call[T]) -> T:
        attempts = Attempts(self._options.retry, call.repeatable)
        while True:
            try:
                return await self._transport.send(call)
            except FacesphereError as error:
                await asyncio.sleep(attempts.after(error))

    def _many(
        self, kind: type[Call[T]], items: Iterable[tuple[str, ImageFile, Any]]
    ) -> AsyncGenerator[Outcome[T], None]:
        source = _items(items)
        transport: Any = self._transport
        if not hasattr(transport, "stream"):
            return over_tasks(self._call, source, self._options.concurrency)
        from facesphere_client.streams import over_async_stream

        return over_async_stream(lambda: transport.stream(kind), self._call, source, self._options)


def _transport(url: str, options: Options) -> AsyncTransport:
    protocol, address, secure = split_url(url)
    if protocol == "rest":
        from facesphere_client.rest import AsyncRestTransport

        return AsyncRestTransport(address, options)
    try:
        from facesphere_client.grpc_transport import AsyncGrpcTransport
    except ImportError as error:
        raise ImportError(f"gRPC needs more packages: pip install 'facesphere-client[grpc]' ({error})") from error
    return AsyncGrpcTransport(address, secure, options)


async def _image(image: ImageFile) -> bytes:
    return image if isinstance(image, bytes) else await asyncio.to_thread(read_image, image)


async def _probe(probe: ProbeLike) -> Probe:
    return await asyncio.to_thread(read_probe, probe) if isinstance(probe, str | os.PathLike) else read_probe(probe)


async def _items(items: Iterable[tuple[str, ImageFile, Any]]) -> AsyncIterator[Item[Any]]:
    """Calls about images that are read as they are asked for, or why they cannot be."""
    for key, image, make in items:
        try:
            yield key, make(await _image(image))
        except FacesphereError as error:
            yield key, error


async def _shown(
    what: str, outcomes: AsyncGenerator[Outcome[T], None], total: int, progress: Progress
) -> AsyncGenerator[Outcome[T], None]:
    with Shown(what, total, progress) as shown:
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                shown.advance()
                yield outcome
