"""Calls a gRPC server that has reflection, without code of its services: the part of grpcurl that by_grpcurl.sh needs.

    echo '{"name": "lab"}' | python examples/reflect.py -d @ 127.0.0.1:50051 face_embedding.v1.Gallery/GetCollection

Needs grpcio-reflection. Messages are JSON on standard input, one after the other; answers are printed as JSON.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main() -> int:
    """list, describe, or a call."""
    options = _options()
    with grpc.insecure_channel(options.server, [("grpc.max_receive_message_length", -1)]) as channel:
        known = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(known)
        if options.what == "list":
            print("\n".join(sorted(known.get_services())))
        elif options.what == "describe":
            for method in pool.FindServiceByName(options.name).methods:
                print(f"{method.name}({method.input_type.full_name}) returns {method.output_type.full_name}")
        else:
            service, _, name = options.what.rpartition("/")
            _call(channel, pool.FindServiceByName(service).FindMethodByName(name), _metadata(options.header))
    return 0


def _call(channel: grpc.Channel, method: Any, metadata: list[tuple[str, str]]) -> None:
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{method.name}"
    messages = (ParseDict(each, request()) for each in _documents(sys.stdin.read()))
    if method.client_streaming:
        answers = channel.stream_stream(path, request.SerializeToString, answer.FromString)(messages, metadata=metadata)
    else:
        call = channel.unary_unary(path, request.SerializeToString, answer.FromString)
        answers = (call(each, metadata=metadata) for each in messages)
    for each in answers:
        print(MessageToJson(each, preserving_proto_field_name=True))


def _documents(text: str) -> Iterator[Any]:
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].strip()


def _metadata(headers: list[str]) -> list[tuple[str, str]]:
    return [(name.strip().lower(), value.strip()) for name, _, value in (each.partition(":") for each in headers)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-plaintext", action="store_true", help="without TLS, as always here")
    parser.add_argument("-H", dest="header", action="append", default=[], help="a header: 'name: value'")
    parser.add_argument("-d", dest="data", choices=["@"], help="messages come on standard input")
    parser.add_argument("server")
    parser.add_argument("what", help="list, describe, or package.Service/Method")
    parser.add_argument("name", nargs="?", help="the service to describe")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as error:
        sys.exit(f"reflect: {error.code().name}: {error.details()}")
    except (KeyError, ValueError) as error:
        sys.exit(f"reflect: {error}")
