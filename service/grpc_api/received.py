"""Request messages as they arrive: with their size, and whether they could be decoded or not."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError

from service.errors import InvalidRequestError, OverloadedError

M = TypeVar("M")
Handler = Any  # grpc.RpcMethodHandler is generic over the messages, and its stubs leave out its attributes


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A request message of `size` bytes; None if the bytes are no such message."""

    size: int
    message: M | None

    def decoded(self) -> M:
        """The message.

        Raises:
            InvalidRequestError: the bytes are no such message.
        """
        if self.message is None:
            raise InvalidRequestError("the bytes are not a message of this request's type, or its text is not UTF-8")
        return self.message


class Decoding(grpc.aio.ServerInterceptor):
    """Hands `Received` messages to the RPCs of some services.

    gRPC answers bytes that it cannot decode with UNKNOWN and a traceback in the log; an RPC can say what is wrong.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._prefixes = tuple(f"/{name}/" for name in services)
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """The handler of an RPC, with another way to decode."""
        known = self._handlers.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefixes):
            return handler
        decode = _decoder(handler.request_deserializer)
        if handler.request_streaming:
            ours = grpc.stream_stream_rpc_method_handler(handler.stream_stream, decode, handler.response_serializer)
        else:
            ours = grpc.unary_unary_rpc_method_handler(handler.unary_unary, decode, handler.response_serializer)
        self._handlers[details.method] = ours
        return ours


class Budget:
    """Bytes of the request messages that are worked on, over all RPCs."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pending = 0

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count `size` bytes while the context is open. One message alone may be over the limit.

        Raises:
            OverloadedError: there is no room beside the other messages.
        """
        if self._pending and self._pending + size > self._max_bytes:
            raise OverloadedError(f"{self._pending} bytes of messages are being worked on already")
        self._pending += size
        try:
            yield
        finally:
            self._pending -= size


def _decoder(parse: Callable[[bytes], M]) -> Callable[[bytes], Received[M]]:
    def decode(raw: bytes) -> Received[M]:
        try:
            return Received(len(raw), parse(raw))
        except DecodeError:
            return Received(len(raw), None)

    return decode
