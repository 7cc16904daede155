"""Carries calls over gRPC, by grpcio."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar, cast

import grpc

from facesphere_client import calls, grpc_messages
from facesphere_client.calls import Call
from facesphere_client.errors import (
    ConnectionFailedError,
    FacesphereError,
    PayloadTooLargeError,
    ProtocolError,
    TimedOutError,
    UnsupportedError,
    refused,
)
from facesphere_client.options import Options
from facesphere_client.pb.face_embedding.v1 import face_embedding_pb2 as pb

T = TypeVar("T")
_PACKAGE = pb.DESCRIPTOR.package
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # of grpc.health.v1.HealthCheckResponse: field 1 is 1
# Calls of which many go over one stream: its method, and the classes of its items.
_STREAMS: Mapping[type[Call[Any]], tuple[str, Any, Any]] = {
    calls.Embed: ("FaceEmbedding/EmbedStream", pb.EmbedStreamRequest, pb.EmbedStreamResponse),
    calls.Enrol: ("Gallery/EnrollStream", pb.EnrollStreamRequest, pb.EnrollStreamResponse),
    calls.Identify: ("Gallery/IdentifyStream", pb.IdentifyStreamRequest, pb.IdentifyStreamResponse),
}


class GrpcTransport:
    """Usable from several threads at once."""

    def __init__(self, address: str, secure: bool, options: Options) -> None:
        self._timeout_s, self._metadata = options.timeout_s, _metadata(options)
        credentials = _credentials(options) if secure else None
        settings = _settings(options)
        self._channel = (
            grpc.secure_channel(address, credentials, settings)
            if credentials is not None
            else grpc.insecure_channel(address, settings)
        )

    def send(self, call: Call[T]) -> T:
        """Ask once.

        Raises:
            FacesphereError: there was no answer, or one that refuses.
        """
        method, message, read = _unary(call)
        ask = self._channel.unary_unary(method, type(message).SerializeToString, read)
        try:
            answer = ask(message, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failed(error) from error
        return _value(call, answer)

    def stream(self, kind: type[Call[Any]]) -> "Stream":
        """A stream of calls of one kind."""
        method, _, response = _STREAMS[kind]
        ask: Any = self._channel.stream_stream(
            f"/{_PACKAGE}.{method}", lambda message: message.SerializeToString(), response.FromString
        )
        return Stream(lambda requests: ask(requests, metadata=self._metadata), self._timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()


class BrokenError(Exception):
    """A stream broke off, with `error`."""

    def __init__(self, error: FacesphereError) -> None:
        super().__init__(str(error))
        self.error = error


_ENDED = ConnectionFailedError("the server ended the stream")


class Stream:
    """A stream, which one thread puts into and reads from."""

    def __init__(self, begin: Any, timeout_s: float) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = begin(iter(self._requests.get, None))
        self._timeout_s = timeout_s

    def put(self, key: str, call: Call[Any]) -> None:
        """Ask for something; its answer bears the key."""
        self._requests.put(_item(key, call))

    def end(self) -> None:
        """There is nothing more to ask for."""
        self._requests.put(None)

    def answer(self) -> tuple[str, Any]:
        """The key of what is done next, and its message or error.

        Raises:
            BrokenError: there comes none, or not in time.
        """
        # A stream has no deadline, as it may take as long as there is something to ask for.
        watch = threading.Timer(self._timeout_s, self._call.cancel)
        watch.start()
        try:
            return _outcome(next(self._call))
        except StopIteration:
            raise BrokenError(_ENDED) from None
        except grpc.RpcError as error:
            late = watch.finished.is_set() and self._call.code() is grpc.StatusCode.CANCELLED
            raise BrokenError(_late(self._timeout_s) if late else _failed(error)) from error
        finally:
            watch.cancel()

    def close(self) -> None:
        """Give up what has no answer yet."""
        self._call.cancel()
        self.end()


class AsyncGrpcTransport:
    """The same in an event loop; its connection belongs to the loop that makes the first call."""

    def __init__(self, address: str, secure: bool, options: Options) -> None:
        self._address, self._secure, self._options = address, secure, options
        self._timeout_s, self._metadata = options.timeout_s, _metadata(options)
        self._made: grpc.aio.Channel | None = None

    async def send(self, call: Call[T]) -> T:
        """Ask once.

        Raises:
            FacesphereError: there was no answer, or one that refuses.
        """
        method, message, read = _unary(call)
        ask = self._channel().unary_unary(method, type(message).SerializeToString, read)
        try:
            answer = await ask(message, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failed(error) from error
        return _value(call, answer)

    def stream(self, kind: type[Call[Any]]) -> "AsyncStream":
        """A stream of calls of one kind."""
        method, _, response = _STREAMS[kind]
        ask: Any = self._channel().stream_stream(
            f"/{_PACKAGE}.{method}", lambda message: message.SerializeToString(), response.FromString
        )
        return AsyncStream(lambda requests: ask(requests, metadata=self._metadata), self._timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.close()

    def _channel(self) -> grpc.aio.Channel:
        if self._made is None:
            settings = _settings(self._options)
            self._made = (
                grpc.aio.secure_channel(self._address, _credentials(self._options), settings)
                if self._secure
                else grpc.aio.insecure_channel(self._address, settings)
            )
        return self._made


class AsyncStream:
    """A stream in an event loop."""

    def __init__(self, begin: Any, timeout_s: float) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._call = begin(self._asked())
        self._timeout_s = timeout_s

    def put(self, key: str, call: Call[Any]) -> None:
        """Ask for something; its answer bears the key."""
        self._requests.put_nowait(_item(key, call))

    def end(self) -> None:
        """There is nothing more to ask for."""
        self._requests.put_nowait(None)

    async def answer(self) -> tuple[str, Any]:
        """The key of what is done next, and its message or error.

        Raises:
            BrokenError: there comes none, or not in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._call.read()
        except TimeoutError:
            raise BrokenError(_late(self._timeout_s)) from None
        except grpc.RpcError as error:
            raise BrokenError(_failed(error)) from error
        if answer is grpc.aio.EOF:
            raise BrokenError(_ENDED)
        return _outcome(answer)

    def close(self) -> None:
        """Give up what has no answer yet."""
        self._call.cancel()
        self.end()

    async def _asked(self) -> AsyncIterator[Any]:
        while (message := await self._requests.get()) is not None:
            yield message


def _late(timeout_s: float) -> TimedOutError:
    return TimedOutError(f"nothing came over the stream for {timeout_s:g} s")


def _unary(call: Call[Any]) -> tuple[str, Any, Any]:
    """Method, message, and what reads the answer."""
    if isinstance(call, calls.Ready):
        return _HEALTH, _Empty(), bytes
    rpc = grpc_messages.rpc(call)
    service, _, name = rpc.method.partition("/")
    output = pb.DESCRIPTOR.services_by_name[service].methods_by_name[name].output_type
    return f"/{_PACKAGE}.{rpc.method}", rpc.message, getattr(pb, output.name).FromString


class _Empty:
    """A message without fields, for a service that this package has no code of."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have
        return b""


def _value(call: Call[T], answer: Any) -> T:
    if isinstance(call, calls.Ready):
        serving: Any = answer == _SERVING
        return cast(T, serving)
    return grpc_messages.answer(call, answer)


def _item(key: str, call: Call[Any]) -> Any:
    _, request, _ = _STREAMS[type(call)]
    return request(id=key, request=grpc_messages.rpc(call).message)


def _outcome(answer: Any) -> tuple[str, Any]:
    if answer.WhichOneof("result") == "error":
        return answer.id, refused(answer.error.code, answer.error.message)
    return answer.id, answer.response


def _settings(options: Options) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.primary_user_agent", options.user_agent),
    ]


def _metadata(options: Options) -> tuple[tuple[str, str | bytes], ...]:
    return () if options.key is None else (("authorization", f"Bearer {options.key}"),)


def _credentials(options: Options) -> grpc.ChannelCredentials:
    ca, key, cert = options.tls.files() if options.tls is not None else (None, None, None)
    return grpc.ssl_channel_credentials(ca, key, cert)


def _failed(error: Any) -> FacesphereError:
    """What a status means; Facesphere's own ones bear the code of the error."""
    status, message = error.code(), error.details() or ""
    trailing = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    if "error-code" in trailing:
        asked = trailing.get("retry-after", "")
        retry_after_s = float(asked) if asked.isdigit() else None
        return refused(trailing["error-code"], message, None, trailing.get("x-request-id"), retry_after_s)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOutError(f"no answer in time: {message}")
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):  # the latter: HTTP/2 went wrong
        return ConnectionFailedError(f"no connection, or it was lost: {message}")
    if status is grpc.StatusCode.CANCELLED:
        return ConnectionFailedError(f"the call was cancelled: {message}")
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return UnsupportedError(f"the server has no such call: {message}")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return PayloadTooLargeError(f"the message is larger than the server takes: {message}")
    return ProtocolError(f"{status.name}: {message}")
