"""What clients rely on: a change of the OpenAPI document or of the proto must be made on purpose.

After a wanted change run `.venv/bin/python tests/service/update_snapshots.py`.
"""

import json
from pathlib import Path
from typing import Any

from live_server import LiveServer

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb

SNAPSHOTS = Path(__file__).parent / "snapshots"


def proto_text() -> str:
    """Services, messages and field numbers, a line each."""
    descriptor = pb.DESCRIPTOR
    lines = []
    for service in descriptor.services_by_name.values():
        for method in service.methods:
            arrows = ("stream " if method.client_streaming else "", "stream " if method.server_streaming else "")
            lines.append(
                f"{service.name}.{method.name}({arrows[0]}{method.input_type.name})"
                f" -> {arrows[1]}{method.output_type.name}"
            )
    for message in descriptor.message_types_by_name.values():
        for field in message.fields:
            kind = field.message_type.name if field.message_type else field.type
            lines.append(f"{message.name}.{field.name} = {field.number}: {kind}, repeated {field.is_repeated}")
    return "\n".join(sorted(lines)) + "\n"


def openapi(server: LiveServer) -> dict[str, Any]:
    """The document that the server publishes."""
    document: dict[str, Any] = server.client.get("/openapi.json").json()
    return document


def test_the_openapi_document_is_the_one_in_the_snapshot(server: LiveServer) -> None:
    assert openapi(server) == json.loads((SNAPSHOTS / "openapi.json").read_text())


def test_the_proto_is_the_one_in_the_snapshot() -> None:
    assert proto_text() == (SNAPSHOTS / "face_embedding.txt").read_text()


def test_every_operation_documents_its_errors_in_one_form(server: LiveServer) -> None:
    document = openapi(server)

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
            assert {"400", "401", "500"} <= set(errors), (method, path)
            for answer in errors.values():
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorOut"}


def test_every_reference_of_the_document_leads_somewhere(server: LiveServer) -> None:
    document = openapi(server)
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert names <= set(document["components"]["schemas"])
    assert document["components"]["securitySchemes"]
