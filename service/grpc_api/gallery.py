"""The Gallery service: people."""

from service.grpc_api import convert
from service.grpc_api.calls import Calls, Context
from service.grpc_api.received import Received
from service.inference.urgency import in_bulk
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc
from service.people import People


class Gallery(pb_grpc.GalleryServicer):
    """Collections, enrolment, identification, erasure."""

    def __init__(self, people: People, calls: Calls) -> None:
        self._people = people
        self._calls = calls

    async def PutCollection(self, received: Received[pb.PutCollectionRequest], context: Context) -> pb.Collection:  # noqa: N802
        """Create a collection or change its settings."""

        async def work(request: pb.PutCollectionRequest) -> pb.Collection:
            stored, _ = await self._people.put_collection(request.name, convert.to_settings(request))
            return convert.collection(stored)

        return await self._calls.unary("PutCollection", context, received, work)

    async def GetCollection(self, received: Received[pb.GetCollectionRequest], context: Context) -> pb.Collection:  # noqa: N802
        """One collection."""

        async def work(request: pb.GetCollectionRequest) -> pb.Collection:
            return convert.collection(await self._people.collection(request.name))

        return await self._calls.unary("GetCollection", context, received, work)

    async def ListCollections(  # noqa: N802
        self, received: Received[pb.ListCollectionsRequest], context: Context
    ) -> pb.ListCollectionsResponse:
        """All collections."""

        async def work(request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:
            collections = [convert.collection(each) for each in await self._people.collections()]
            return pb.ListCollectionsResponse(collections=collections)

        return await self._calls.unary("ListCollections", context, received, work)

    async def DeleteCollection(  # noqa: N802
        self, received: Received[pb.DeleteCollectionRequest], context: Context
    ) -> pb.ErasureReceipt:
        """Erase a collection."""

        async def work(request: pb.DeleteCollectionRequest) -> pb.ErasureReceipt:
            return convert.receipt(await self._people.delete_collection(request.name))

        return await self._calls.unary("DeleteCollection", context, received, work)

    async def Enroll(self, received: Received[pb.EnrollRequest], context: Context) -> pb.EnrollResponse:  # noqa: N802
        """Enrol a person."""

        return await self._calls.unary("Enroll", context, received, self._enroll)

    async def EnrollStream(self, _: object, context: Context) -> None:  # noqa: N802
        """Many enrolments; each is answered when it is on the disk."""

        async def work(item: pb.EnrollStreamRequest) -> pb.EnrollStreamResponse:
            with in_bulk():
                return pb.EnrollStreamResponse(id=item.id, response=await self._enroll(item.request))

        def failed(item: pb.EnrollStreamRequest, error: pb.Error) -> pb.EnrollStreamResponse:
            return pb.EnrollStreamResponse(id=item.id, error=error)

        await self._calls.stream("EnrollStream", context, work, failed)

    async def GetSubject(self, received: Received[pb.GetSubjectRequest], context: Context) -> pb.Subject:  # noqa: N802
        """A person."""

        async def work(request: pb.GetSubjectRequest) -> pb.Subject:
            return convert.subject(await self._people.subject(request.collection, request.subject))

        return await self._calls.unary("GetSubject", context, received, work)

    async def ListSubjects(  # noqa: N802
        self, received: Received[pb.ListSubjectsRequest], context: Context
    ) -> pb.ListSubjectsResponse:
        """People by name."""

        async def work(request: pb.ListSubjectsRequest) -> pb.ListSubjectsResponse:
            page = await self._people.subjects(request.collection, request.cursor or None, request.limit or 100)
            return convert.page(page)

        return await self._calls.unary("ListSubjects", context, received, work)

    async def DeleteSubject(self, received: Received[pb.DeleteSubjectRequest], context: Context) -> pb.ErasureReceipt:  # noqa: N802
        """Erase a person."""

        async def work(request: pb.DeleteSubjectRequest) -> pb.ErasureReceipt:
            return convert.receipt(await self._people.delete_subject(request.collection, request.subject))

        return await self._calls.unary("DeleteSubject", context, received, work)

    async def DeleteFace(self, received: Received[pb.DeleteFaceRequest], context: Context) -> pb.ErasureReceipt:  # noqa: N802
        """Erase one face."""

        async def work(request: pb.DeleteFaceRequest) -> pb.ErasureReceipt:
            receipt = await self._people.delete_face(request.collection, request.subject, request.face_id)
            return convert.receipt(receipt)

        return await self._calls.unary("DeleteFace", context, received, work)

    async def Identify(self, received: Received[pb.IdentifyRequest], context: Context) -> pb.IdentifyResponse:  # noqa: N802
        """Who is this?"""
        return await self._calls.unary("Identify", context, received, self._identify)

    async def IdentifyStream(self, _: object, context: Context) -> None:  # noqa: N802
        """Many probes; answers in the order in which they are done."""

        async def work(item: pb.IdentifyStreamRequest) -> pb.IdentifyStreamResponse:
            return pb.IdentifyStreamResponse(id=item.id, response=await self._identify(item.request))

        def failed(item: pb.IdentifyStreamRequest, error: pb.Error) -> pb.IdentifyStreamResponse:
            return pb.IdentifyStreamResponse(id=item.id, error=error)

        await self._calls.stream("IdentifyStream", context, work, failed)

    async def VerifySubject(self, received: Received[pb.VerifySubjectRequest], context: Context) -> pb.VerifyResponse:  # noqa: N802
        """Is this the enrolled person?"""

        async def work(request: pb.VerifySubjectRequest) -> pb.VerifyResponse:
            probe, criterion = convert.to_probe(request.probe), convert.to_criterion(request)
            found = await self._people.verify_subject(request.collection, request.subject, probe, criterion)
            return convert.verification(*found)

        return await self._calls.unary("VerifySubject", context, received, work)

    async def _enroll(self, request: pb.EnrollRequest) -> pb.EnrollResponse:
        probes = [convert.to_probe(each) for each in request.probes]
        consent, key = request.consent or None, request.idempotency_key or None
        enrolment = await self._people.enrol(request.collection, request.subject, probes, consent, key)
        return convert.enrolment(enrolment)

    async def _identify(self, request: pb.IdentifyRequest) -> pb.IdentifyResponse:
        results = await self._people.identify(
            request.collection,
            convert.to_probe(request.probe),
            convert.to_search_criterion(request),
            request.limit or 5,
            convert.to_select(request.faces, "largest"),
        )
        model = results[0].model if results else (await self._people.collection(request.collection)).model
        return convert.identifications(results, model)
