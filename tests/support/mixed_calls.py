"""One client of several that work on a server at once, over REST and gRPC, and know what each answer must be.

    python mixed_calls.py HTTP GRPC CLIENT CALLS

It is alone in its own collection, and with the others in the collection `shared`, where its people bear its number.
At the end it prints as JSON what it counted, what differed, and who should be enrolled.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import httpx
import numpy as np

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

DIMENSION = 128
THRESHOLD = 0.9
SHARED = "shared"
NOT_FOUND = "not found"
Faces = dict[str, int]  # face_id: which vector


def vector(number: int) -> list[float]:
    """A unit vector of its own; those of two numbers are far from each other."""
    drawn = np.random.default_rng(number).normal(size=DIMENSION)
    return list(drawn / np.linalg.norm(drawn))


class OverRest:
    """The calls, with answers in one form for both protocols."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=60)

    def put(self, collection: str) -> Any:
        return self._call("PUT", f"/collections/{collection}", {"purpose": "p"}, lambda each: each["name"])

    def enrol(self, collection: str, person: str, vectors: Sequence[list[float]]) -> Any:
        path, found = f"/collections/{collection}/subjects/{person}/faces", []
        for each in vectors:
            one = self._call("POST", path, {"embedding": each}, lambda done: done["faces"][0]["face_id"])
            if one == NOT_FOUND:
                return NOT_FOUND
            found.append(one)
        return found

    def faces(self, collection: str, person: str) -> Any:
        path = f"/collections/{collection}/subjects/{person}"
        return self._call("GET", path, None, lambda each: sorted(face["face_id"] for face in each["faces"]))

    def verify(self, collection: str, person: str, probe: list[float]) -> Any:
        body = {"embedding": probe, "threshold": THRESHOLD}
        path = f"/collections/{collection}/subjects/{person}/verify"
        return self._call("POST", path, body, lambda each: [each["matched"], each["face_id"]])

    def identify(self, collection: str, probe: list[float]) -> Any:
        body = {"embedding": probe, "threshold": THRESHOLD}
        return self._call("POST", f"/collections/{collection}/identify", body, lambda each: each["candidates"])

    def erase(self, *names: str) -> Any:
        path = "".join(
            f"/{kind}/{name}" for kind, name in zip(("collections", "subjects", "faces"), names, strict=False)
        )
        return self._call("DELETE", path, None, lambda each: sorted(each["face_ids"]))

    def _call(self, method: str, path: str, body: Any, read: Callable[[Any], Any]) -> Any:
        answer = self._client.request(method, path, json=body)
        if answer.status_code == 404:
            return NOT_FOUND
        return read(answer.json()) if answer.status_code in (200, 201) else f"{answer.status_code} {answer.text}"


class OverGrpc:
    """The same over gRPC."""

    def __init__(self, address: str) -> None:
        self._stub = pb_grpc.GalleryStub(grpc.insecure_channel(address))

    def put(self, collection: str) -> Any:
        return self._call(
            "PutCollection", pb.PutCollectionRequest(name=collection, purpose="p"), lambda each: each.name
        )

    def enrol(self, collection: str, person: str, vectors: Sequence[list[float]]) -> Any:
        probes = [_probe(each) for each in vectors]
        request = pb.EnrollRequest(collection=collection, subject=person, probes=probes)
        return self._call("Enroll", request, lambda each: [face.face_id for face in each.faces])

    def faces(self, collection: str, person: str) -> Any:
        request = pb.GetSubjectRequest(collection=collection, subject=person)
        return self._call("GetSubject", request, lambda each: sorted(face.face_id for face in each.faces))

    def verify(self, collection: str, person: str, probe: list[float]) -> Any:
        request = pb.VerifySubjectRequest(
            collection=collection, subject=person, probe=_probe(probe), threshold=THRESHOLD
        )
        return self._call("VerifySubject", request, lambda each: [each.matched, each.face_id])

    def identify(self, collection: str, probe: list[float]) -> Any:
        request = pb.IdentifyRequest(collection=collection, probe=_probe(probe), threshold=THRESHOLD)
        return self._call("Identify", request, lambda each: [_candidate(one) for one in each.results[0].candidates])

    def erase(self, collection: str, person: str = "", face_id: str = "") -> Any:
        calls = {
            "DeleteFace": pb.DeleteFaceRequest(collection=collection, subject=person, face_id=face_id),
            "DeleteSubject": pb.DeleteSubjectRequest(collection=collection, subject=person),
            "DeleteCollection": pb.DeleteCollectionRequest(name=collection),
        }
        name = "DeleteFace" if face_id else "DeleteSubject" if person else "DeleteCollection"
        return self._call(name, calls[name], lambda each: sorted(each.face_ids))

    def _call(self, name: str, request: Any, read: Callable[[Any], Any]) -> Any:
        try:
            return read(getattr(self._stub, name)(request, timeout=60))
        except grpc.RpcError as error:
            return NOT_FOUND if error.code() == grpc.StatusCode.NOT_FOUND else f"{error.code()} {error.details()}"


class Client:
    """Calls at random, each with the answer that the client's own model says it must get."""

    def __init__(self, http: str, grpc_address: str, number: int) -> None:
        self._rng = random.Random(number)
        self._protocols = (OverRest(http), OverGrpc(grpc_address))
        self._number, self._drawn = number, 0
        self._mine = f"own-{number}"
        self.people: dict[str, dict[str, Faces]] = {SHARED: {}}
        self.differed: list[str] = []
        self.counts: dict[str, int] = {}

    def run(self, calls: int) -> None:
        """So many calls."""
        weights = {
            self._enrol: 35, self._identify: 25, self._verify: 15, self._look: 5, self._erase_face: 10,
            self._erase_person: 6, self._put: 3, self._erase_collection: 1,
        }  # fmt: skip
        for call in self._rng.choices(list(weights), list(weights.values()), k=calls):
            call(self._rng.choice(self._protocols), self._rng.choice((self._mine, SHARED)))

    def _put(self, over: Any, _: str) -> None:
        self._same("put", over.put(self._mine), self._mine)
        self.people.setdefault(self._mine, {})

    def _enrol(self, over: Any, collection: str) -> None:
        person, numbers = self._name(), [self._draw() for _ in range(self._rng.randint(1, 3))]
        answer = over.enrol(collection, person, [vector(number) for number in numbers])
        if collection in self.people and isinstance(answer, list) and len(answer) == len(numbers):
            new = dict(zip(answer, numbers, strict=True))
            self.people[collection].setdefault(person, {}).update(new)
            self._same("enrol", len(new), len(numbers))
        else:
            self._same("enrol", answer, NOT_FOUND if collection not in self.people else "faces")

    def _look(self, over: Any, collection: str) -> None:
        person = self._name()
        known = self.people.get(collection, {}).get(person)
        self._same("look", over.faces(collection, person), NOT_FOUND if known is None else sorted(known))

    def _verify(self, over: Any, collection: str) -> None:
        person, probe = self._name(), self._drawn_before()
        known = self.people.get(collection, {}).get(person)
        answer = over.verify(collection, person, vector(probe))
        if not known:
            self._same("verify", answer, NOT_FOUND)
        elif probe in known.values():
            self._same("verify", answer, [True, _face(known, probe)])
        else:  # which face is nearest to a stranger is not this client's to say
            self._same("verify", [answer[0], answer[1] in known], [False, True])

    def _identify(self, over: Any, collection: str) -> None:
        probe = self._drawn_before()
        found = over.identify(collection, vector(probe))
        answer = found if isinstance(found, str) else [[each["subject"], each["face_id"]] for each in found]
        people = self.people.get(collection)
        owners = [[name, _face(faces, probe)] for name, faces in (people or {}).items() if probe in faces.values()]
        self._same("identify", answer, NOT_FOUND if people is None else owners)

    def _erase_face(self, over: Any, collection: str) -> None:
        person = self._name()
        known = self.people.get(collection, {}).get(person, {})
        face_id = self._rng.choice([*sorted(known), "f" * 32])
        self._same(
            "erase a face", over.erase(collection, person, face_id), [face_id] if face_id in known else NOT_FOUND
        )
        known.pop(face_id, None)

    def _erase_person(self, over: Any, collection: str) -> None:
        person = self._name()
        known = self.people.get(collection, {}).pop(person, None)
        self._same("erase a person", over.erase(collection, person), NOT_FOUND if known is None else sorted(known))

    def _erase_collection(self, over: Any, _: str) -> None:
        people = self.people.pop(self._mine, None)
        expected = NOT_FOUND if people is None else sorted(face for faces in people.values() for face in faces)
        self._same("erase a collection", over.erase(self._mine), expected)

    def _same(self, what: str, answer: Any, expected: Any) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        if answer != expected:
            self.differed.append(f"{what}: {answer!r}, expected {expected!r}")

    def _name(self) -> str:
        return f"{self._number} {self._rng.randrange(12)}"

    def _draw(self) -> int:
        self._drawn += 1
        return 1_000_000 * (self._number + 1) + self._drawn

    def _drawn_before(self) -> int:
        """Mostly a vector that was enrolled, and may have been erased."""
        return 1_000_000 * (self._number + 1) + max(1, self._drawn - self._rng.randrange(60))


def _face(faces: Faces, number: int) -> str:
    return next(face_id for face_id, each in faces.items() if each == number)


def _probe(values: list[float]) -> Any:
    return pb.Probe(embedding=pb.Embedding(values=values))


def _candidate(each: Any) -> dict[str, str]:
    return {"subject": each.subject, "face_id": each.face_id}


def main() -> None:
    """As the module says."""
    client = Client(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    client.run(int(sys.argv[4]))
    print(json.dumps({"counts": client.counts, "differed": client.differed, "people": client.people}))


if __name__ == "__main__":
    main()
