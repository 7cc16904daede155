"""A stream of enrolments: what was answered outlives the server, and what was not can be asked for again."""

import contextlib
import signal
from pathlib import Path

import grpc
from live_server import live_server

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb


def _requests(photo: bytes, count: int) -> list[pb.EnrollStreamRequest]:
    return [
        pb.EnrollStreamRequest(
            id=str(number),
            request=pb.EnrollRequest(
                collection="lab",
                subject=f"person {number % 3}",
                probes=[pb.Probe(image=photo)],
                idempotency_key=f"photo {number}",
            ),
        )
        for number in range(count)
    ]


def test_what_was_answered_outlives_a_kill_and_the_rest_is_enrolled_once_when_it_is_sent_again(
    models_dir: Path, tmp_path: Path, face_photo: bytes
) -> None:
    requests = _requests(face_photo, 40)
    answered: dict[str, str] = {}
    with live_server(tmp_path, models_dir=str(models_dir)) as server:
        server.gallery.PutCollection(pb.PutCollectionRequest(name="lab", purpose="streams"))
        stream = server.gallery.EnrollStream(iter(requests))
        with contextlib.suppress(grpc.RpcError):
            for answer in stream:
                answered[answer.id] = answer.response.faces[0].face_id
                if len(answered) == 5:
                    server.process.send_signal(signal.SIGKILL)
        server.process.wait(30)

    with live_server(tmp_path, models_dir=str(models_dir)) as server:

        def kept() -> set[str]:
            people = server.gallery.ListSubjects(pb.ListSubjectsRequest(collection="lab")).subjects
            requests = (pb.GetSubjectRequest(collection="lab", subject=each.name) for each in people)
            return {face.face_id for request in requests for face in server.gallery.GetSubject(request).faces}

        before = kept()
        again = {each.id: each.response.faces[0].face_id for each in server.gallery.EnrollStream(iter(requests))}

        assert 5 <= len(answered) < 40
        assert set(answered.values()) <= before
        assert len(again) == len(set(again.values())) == 40
        assert before <= set(again.values())
        assert kept() == set(again.values())
        assert {key: again[key] for key in answered} == answered
