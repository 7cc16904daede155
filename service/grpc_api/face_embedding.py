"""The FaceEmbedding service: photos."""

from collections.abc import AsyncIterator

from service.faces import Faces
from service.grpc_api import convert
from service.grpc_api.calls import Calls, Context
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc


class FaceEmbedding(pb_grpc.FaceEmbeddingServicer):
    """Detect, embed, verify."""

    def __init__(self, faces: Faces, calls: Calls) -> None:
        self._faces = faces
        self._calls = calls

    async def Detect(self, request: pb.DetectRequest, context: Context) -> pb.DetectResponse:  # noqa: N802
        """Faces of a photo."""

        async def work() -> pb.DetectResponse:
            return convert.photo(await self._faces.detect(request.image), self._faces.model)

        return await self._calls.unary("Detect", context, work)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:  # noqa: N802
        """Faces of a photo with embeddings."""
        return await self._calls.unary("Embed", context, lambda: self._embed(request))

    async def EmbedStream(  # noqa: N802
        self, requests: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Many photos; answers in the order in which they are done."""

        async def answer(item: pb.EmbedStreamRequest) -> pb.EmbedStreamResponse:
            try:
                return pb.EmbedStreamResponse(id=item.id, response=await self._embed(item.request))
            except Exception as error:  # an item that fails must not end the stream
                code, message = self._calls.error_code(error, context)
                return pb.EmbedStreamResponse(id=item.id, error=pb.Error(code=code, message=message))

        async for response in self._calls.stream("EmbedStream", context, requests, answer):
            yield response

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:  # noqa: N802
        """Are two probes one person?"""

        async def work() -> pb.VerifyResponse:
            a, b = convert.to_probe(request.a), convert.to_probe(request.b)
            return convert.verification(await self._faces.verify(a, b, convert.to_criterion(request)))

        return await self._calls.unary("Verify", context, work)

    async def _embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        select = convert.to_select(request.faces, "all")
        photo = await self._faces.embed(request.image, select, request.aligned)
        return convert.embedded_photo(photo, self._faces.model)
