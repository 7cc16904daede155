"""The FaceEmbedding service: photos."""

from service.grpc_api import convert
from service.grpc_api.calls import Calls, Context
from service.grpc_api.received import Received
from service.inference.urgency import in_bulk
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc
from service.people import People
from service.served import Served


class FaceEmbedding(pb_grpc.FaceEmbeddingServicer):
    """Detect, embed, verify."""

    def __init__(self, served: Served, people: People, calls: Calls) -> None:
        self._served = served
        self._people = people
        self._calls = calls

    async def Detect(self, received: Received[pb.DetectRequest], context: Context) -> pb.DetectResponse:  # noqa: N802
        """Faces of a photo."""

        async def work(request: pb.DetectRequest) -> pb.DetectResponse:
            faces = self._served.default
            return convert.photo(await faces.detect(request.image), faces.model)

        return await self._calls.unary("Detect", context, received, work, self._served.default.check_room)

    async def Embed(self, received: Received[pb.EmbedRequest], context: Context) -> pb.EmbedResponse:  # noqa: N802
        """Faces of a photo with embeddings."""
        check_room = self._served.default.check_room
        return await self._calls.unary("Embed", context, received, self._embed, check_room)

    async def EmbedStream(self, _: object, context: Context) -> None:  # noqa: N802
        """Many photos; answers in the order in which they are done."""

        async def work(item: pb.EmbedStreamRequest) -> pb.EmbedStreamResponse:
            with in_bulk():
                return pb.EmbedStreamResponse(id=item.id, response=await self._embed(item.request))

        def failed(item: pb.EmbedStreamRequest, error: pb.Error) -> pb.EmbedStreamResponse:
            return pb.EmbedStreamResponse(id=item.id, error=error)

        await self._calls.stream("EmbedStream", context, work, failed)

    async def Verify(self, received: Received[pb.VerifyRequest], context: Context) -> pb.VerifyResponse:  # noqa: N802
        """Are two probes one person?"""

        async def work(request: pb.VerifyRequest) -> pb.VerifyResponse:
            a, b = convert.to_probe(request.a), convert.to_probe(request.b)
            return convert.verification(await self._people.verify(a, b, convert.to_criterion(request)))

        return await self._calls.unary("Verify", context, received, work)

    async def _embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        select = convert.to_select(request.faces, "all")
        faces = self._served.default
        photo = await faces.embed(request.image, select, request.aligned)
        return convert.embedded_photo(photo, faces.model)
