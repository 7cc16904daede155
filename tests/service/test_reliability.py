"""What is promised of the disk, against a real server that is killed, starved of room and lied to.

`make torture` runs the same with the counts of docs/reliability.md; TORTURE=0.1 with a tenth of them.
"""

import base64
import concurrent.futures
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from enrolment import MODEL, SETTINGS, new_face, units
from galleries import keys_of, open_gallery, stored_bytes
from live_server import LiveServer, live_server
from photos import ROOT, astronaut, encode

from models.errors import FaceError
from service.gallery import snapshots
from service.gallery.backup import back_up

TORTURE = float(os.environ.get("TORTURE", "0"))
DIMENSION = 128

pytestmark = pytest.mark.timeout(0 if TORTURE else 120)


def _count(short: int, full: int) -> int:
    return max(1, round(full * TORTURE)) if TORTURE else short


def _vector(name: str) -> list[float]:
    """A unit vector of a person's own."""
    vector = np.random.default_rng(list(name.encode())).normal(size=DIMENSION)
    return list(vector / np.linalg.norm(vector))


@dataclass
class Book:
    """What one client was told: who is enrolled, who is erased, and whose request got no answer."""

    enrolled: dict[str, str] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    answers: int = 0


def _traffic(address: str, worker: int, turn: int, seed: int, book: Book) -> None:
    """Enrol and erase until the server is gone."""
    rng = random.Random(f"{seed}-{worker}-{turn}")
    with httpx.Client(base_url=address, timeout=10) as client:
        for number in range(10_000):
            mine = sorted(name for name in book.enrolled if name.startswith(f"w{worker}-"))
            erase = bool(mine) and rng.random() < 0.35
            name = rng.choice(mine) if erase else f"w{worker}-{turn}-{number}"
            path = f"/collections/lab/subjects/{name}"
            book.unsure.add(name)
            try:
                if erase:
                    answer = client.delete(path)
                    assert answer.status_code == 200, answer.text
                    del book.enrolled[name]
                    book.erased.add(name)
                else:
                    answer = client.post(f"{path}/faces", json={"embedding": _vector(name)})
                    assert answer.status_code == 201, answer.text
                    book.enrolled[name] = answer.json()["faces"][0]["face_id"]
            except httpx.HTTPError:
                return  # killed in the middle: done or not, but never half
            book.unsure.discard(name)
            book.answers += 1


def _check(server: LiveServer, books: list[Book]) -> None:
    """Nobody who was acknowledged is missing, nobody who was erased is back, and everybody is who they were."""
    there: dict[str, int] = {}
    cursor = None
    while True:
        params = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = server.client.get("/collections/lab/subjects", params=params).json()
        there |= {each["subject"]: each["faces"] for each in page["subjects"]}
        cursor = page["next_cursor"]
        if cursor is None:
            break
    for book in books:
        assert {name for name in book.enrolled if name not in book.unsure} <= there.keys()
        assert not {name for name in book.erased if name not in book.unsure} & there.keys()
    assert set(there.values()) <= {1}
    for name in random.Random(0).sample(sorted(there), min(10, len(there))):
        body = {"embedding": _vector(name), "limit": 1, "threshold": 0.9}
        found = server.client.post("/collections/lab/identify", json=body).json()
        assert found["candidates"][0]["subject"] == name
        assert found["gallery_size"] == len(there)


def test_a_server_that_is_killed_under_traffic_loses_nothing_and_brings_nobody_back(
    tmp_path: Path, models_dir: Path
) -> None:
    kills, workers = _count(3, 1000), 4
    books, chance, answers = [Book() for _ in range(workers)], random.Random(11), 0

    for turn in range(kills + 1):
        with live_server(tmp_path / "data", models_dir=str(models_dir)) as server:
            if turn == 0:
                assert server.client.put("/collections/lab", json={"purpose": "torture"}).status_code == 201
            _check(server, books)
            for book in books:
                book.unsure.clear()  # whatever became of them is the truth now
            if turn == kills:
                break
            _learn(server, books)
            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                arguments = [(server.http, worker, turn, 5, books[worker]) for worker in range(workers)]
                running = [pool.submit(_traffic, *each) for each in arguments]
                time.sleep(chance.uniform(0.05, 0.6))
                server.process.send_signal(signal.SIGKILL)
                assert server.process.wait(timeout=30) == -signal.SIGKILL  # it really was killed
                for each in running:
                    each.result()
    answers = sum(book.answers for book in books)
    print(f"{kills} kills, {answers} acknowledged changes, {sum(len(book.erased) for book in books)} erased")
    assert answers > kills


def _learn(server: LiveServer, books: list[Book]) -> None:
    """Take what is there for what was done: an unanswered request may have been either."""
    page = server.client.get("/collections/lab/subjects", params={"limit": 1000}).json()
    names = {each["subject"] for each in page["subjects"]}
    for worker, book in enumerate(books):
        mine = {name for name in names if name.startswith(f"w{worker}-")}
        book.enrolled = {name: book.enrolled.get(name, "") for name in mine}
        book.erased -= mine


def test_a_server_that_is_told_to_stop_answers_whatever_it_has_accepted(tmp_path: Path, models_dir: Path) -> None:
    """What was done was answered: a request may be turned away at the door, and never after it came in."""
    answered: set[str] = set()

    def call(address: str, worker: int, turn: int) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            for number in range(10_000):
                name = f"{worker}-{turn}-{number}"
                path = f"/collections/lab/subjects/{name}/faces"
                try:
                    answer = client.post(path, json={"embedding": _vector(name)})
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    answered.add(name)
                else:
                    assert answer.status_code == 503, answer.text

    stops = _count(2, 200)
    for turn in range(stops):
        with (
            live_server(tmp_path / "data", models_dir=str(models_dir)) as server,
            concurrent.futures.ThreadPoolExecutor(4) as pool,
        ):
            server.client.put("/collections/lab", json={"purpose": "torture"})
            running = [pool.submit(call, server.http, worker, turn) for worker in range(4)]
            time.sleep(0.3)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=30) == 0
            assert time.monotonic() - began < 30
            for each in running:
                each.result()
        with closing(open_gallery(tmp_path / "data")) as gallery:
            done = {each.name for each in gallery.subjects("lab", "", 1_000_000).subjects}
            assert done == answered
    print(f"{stops} stops, {len(answered)} requests answered, none done and not answered")
    assert answered


# --- fsync


ACKNOWLEDGE = """
import os, sys
from pathlib import Path
from enrolment import MODEL, SETTINGS, new_face, units
from galleries import open_gallery

gallery = open_gallery(Path(sys.argv[1]))
gallery.put_collection("lab", SETTINGS, MODEL)
for number, vector in enumerate(units(1, int(sys.argv[2]))):
    os.write(1, b"begin\\n")
    gallery.enrol("lab", MODEL.contract_id, f"person {number}", [new_face(vector)])
    os.write(1, b"acknowledged\\n")
gallery.close()
"""


def _python(script: str, *arguments: object, before: tuple[str, ...] = (), **options: object) -> list[str]:
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'support')!r}]\n"
    return [*before, sys.executable, "-c", path + script, *map(str, arguments)]


def _synced_acknowledgements(log: str) -> tuple[int, int]:
    """How many acknowledgements there were, and before how many of them something was synced since it began."""
    synced, acknowledged, good = False, 0, 0
    for line in log.splitlines():
        if "begin" in line:
            synced = False
        elif "acknowledged" in line:
            acknowledged += 1
            good += synced
        elif re.search(r"\bf(data)?sync\(\d+\)\s+= 0", line):
            synced = True
    return acknowledged, good


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_every_acknowledgement_comes_after_an_fsync_and_the_check_would_notice(tmp_path: Path) -> None:
    count = 100
    found = {}
    for name, before in (("honest", ()), ("lied to", ("eatmydata",))):
        if before and shutil.which(before[0]) is None:
            continue
        log = tmp_path / f"{name}.log"
        trace = ("strace", "-f", "-e", "trace=fsync,fdatasync,write", "-s", "16", "-o", str(log))
        command = _python(ACKNOWLEDGE, tmp_path / name, count, before=(*trace, *before))
        subprocess.run(command, check=True, capture_output=True, timeout=110)
        found[name] = _synced_acknowledgements(log.read_text())

    assert found["honest"] == (count, count)
    if "lied to" in found:
        assert found["lied to"][1] == 0


FAULTY = """
import json, sys
from pathlib import Path
from enrolment import MODEL, SETTINGS, new_face, units
from galleries import open_gallery
from models.errors import FaceError
from service.gallery import snapshots

snapshots.FROM_FACES, snapshots.SHARE = 1, 0  # small galleries have one too, written at every turn
told = []
try:
    gallery = open_gallery(Path(sys.argv[1]))
    for number in range(4):
        name = f"new {number}"
        for what, call in (
            ("enrolled", lambda: gallery.enrol("lab", MODEL.contract_id, name, [new_face(units(number, 1)[0])])),
            ("erased", lambda: gallery.erase("lab", f"old {number}")),
        ):
            try:
                call()
                told.append([what, name if what == "enrolled" else f"old {number}"])
            except FaceError:
                pass
        gallery.search("lab", MODEL.contract_id, units(1, 1)[0], 3)  # goes on whatever the disk does
        gallery.write_snapshots()
except FaceError:
    pass  # it did not even open
print(json.dumps(told))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
@pytest.mark.parametrize(
    ("call", "step"), [("fsync,fdatasync", 9), ("write,pwrite64", 121), ("rename,unlink", 2), ("ftruncate", 4)]
)
def test_whichever_call_to_the_disk_fails_nothing_is_acknowledged_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, step: int
) -> None:
    monkeypatch.setattr(snapshots, "FROM_FACES", 1)
    pristine = tmp_path / "pristine"
    with closing(open_gallery(pristine / "data")) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        for number in range(4):
            gallery.enrol("lab", MODEL.contract_id, f"old {number}", [new_face(units(100 + number, 1)[0])])
    snapshot = next((pristine / "data" / snapshots.FOLDER).iterdir()).relative_to(pristine)

    nth, failed = 1, 0
    while True:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(pristine, copy)
        error = random.Random(nth).choice(["EIO", "ENOSPC"])
        # Only calls on files of the gallery are counted and fail: strace's -P keeps to paths, also by descriptor.
        paths = [str(path) for path in copy.rglob("*")] + [str(copy / "data"), str(copy / "data.keys")]
        paths += [f"{copy}/data/gallery.sqlite3{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
        paths += [f"{copy}/data.keys/{name}" for name in ("erasures.jsonl", "anchor", "keyring.json.tmp")]
        paths.append(f"{copy}/{snapshot}.tmp")
        only = [word for path in sorted(set(paths)) for word in ("-P", path)]
        log = tmp_path / "strace.log"
        inject = f"inject={call}:error={error}:when={nth}"
        trace = ("strace", "-f", "-o", str(log), *only, "-e", f"trace={call}", "-e", inject)
        done = subprocess.run(
            _python(FAULTY, copy / "data", before=trace), capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stderr
        if "(INJECTED)" not in log.read_text():
            break  # there are fewer such calls
        failed += 1
        told = json.loads(done.stdout)
        with closing(open_gallery(copy / "data")) as gallery:
            there = {each.name for each in gallery.subjects("lab", "", 100).subjects}
            for what, name in told:
                assert (name in there) == (what == "enrolled"), (nth, error, told)
            for name in [f"{age} {number}" for age in ("old", "new") for number in range(4)]:
                seed = int(name[-1]) + (100 if name.startswith("old") else 0)
                (best,), size = gallery.search("lab", MODEL.contract_id, units(seed, 1)[0], 1)
                assert (best.subject == name and best.similarity > 0.99) == (name in there), (nth, error, told)
                assert size == len(there)
            gallery.audit.verify()
        nth += 1 if TORTURE else step
    print(f"{call}: {failed} faults")
    assert failed >= 1


# --- damage


def _made(folder: Path) -> dict[str, bytes]:
    """A gallery with some of everything; vectors by name."""
    vectors = units(7, 8)
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        gallery.put_collection("gate", SETTINGS, MODEL)
        for number, vector in enumerate(vectors):
            name = "lab" if number % 2 else "gate"
            gallery.enrol(name, MODEL.contract_id, f"person {number}", [new_face(vector, crop=b"crop" * 50)])
        gallery.note("x", "verify", matched=True)
        gallery.audit.seal(keep=4)
        gallery.erase("gate", "person 0")
        # A write-ahead log with content, as after a kill.
        files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path, content in files.items():
        path.write_bytes(content)
    return {f"person {number}": vector.tobytes() for number, vector in enumerate(vectors)}


def _answers(folder: Path, vectors: dict[str, bytes]) -> Iterator[tuple[str, str | None]]:
    """Who each person is taken for, the erased one too."""
    with closing(open_gallery(folder)) as gallery:
        gallery.audit.verify()
        for name, raw in vectors.items():
            vector = np.frombuffer(raw, np.float32)
            for collection in ("lab", "gate"):
                with suppress(KeyError):
                    matches, _ = gallery.search(collection, MODEL.contract_id, vector, 1)
                    if matches and matches[0].similarity > 0.99:
                        yield name, matches[0].subject
        for collection in ("lab", "gate"):
            for person in gallery.subjects(collection, "", 100).subjects:
                assert person.name in vectors
                assert len(gallery.subject(collection, person.name).faces) == person.faces
                for _, vector in gallery.vectors_of(collection, MODEL.contract_id, person.name):
                    assert vector.tobytes() == vectors[person.name]


@pytest.mark.parametrize("how", ["truncation", "bit flip"])
def test_a_damaged_file_is_noticed_or_does_not_matter_and_never_makes_somebody_another(
    tmp_path: Path, how: str
) -> None:
    folder, rng = tmp_path / "data", random.Random(how)
    vectors = _made(folder)
    keys = {path: path.read_bytes() for path in keys_of(folder).folder.rglob("*") if path.is_file()}
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size}
    whole = sorted(_answers(folder, vectors))
    assert len(whole) == 7
    noticed = harmless = 0

    for path, content in kept.items():
        for _ in range(_count(12, 500) if how == "truncation" else _count(40, 2000)):
            for each in folder.rglob("*"):
                if each.is_file():
                    each.unlink()
            for each, original in (kept | keys).items():
                each.write_bytes(original)
            place = rng.randrange(len(content))
            if how == "truncation":
                path.write_bytes(content[:place])
            else:
                path.write_bytes(
                    content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
                )
            try:
                assert sorted(_answers(folder, vectors)) == whole, (path.name, place)
                harmless += 1
            except FaceError as error:
                assert "\n" not in error.message  # noqa: PT017
                noticed += 1
    print(f"{how}: {noticed} noticed, {harmless} without any effect, {len(kept)} files")
    assert noticed > 0


def test_nothing_of_an_erased_person_is_left_in_data_log_or_backup(tmp_path: Path, models_dir: Path) -> None:
    name = "Somebody Who Wants To Be Forgotten"
    vector = np.array(_vector(name), np.float32)
    with live_server(tmp_path / "data", models_dir=str(models_dir), log_level="debug") as server:
        server.client.put("/collections/lab", json={"purpose": "p", "store_crops": True})
        path = f"/collections/lab/subjects/{name}"
        photo = encode(astronaut(), "JPEG", quality=95)
        assert server.client.post(f"{path}/faces", json={"embedding": vector.tolist()}).status_code == 201
        assert server.client.post(f"{path}/faces", files={"images": photo}).status_code == 201
        server.client.post("/collections/lab/identify", json={"embedding": vector.tolist()})
        kept = server.client.get(f"{path}/export").json()
        server.client.post(f"{path}/verify", json={"embedding": vector.tolist()})
        blobs = stored_bytes(tmp_path / "data", name)
        crop = next(base64.b64decode(face["crop"]) for face in kept["faces"] if face["crop"])
        embedded = np.array(kept["faces"][1]["embedding"], np.float32)
        assert len(blobs) == 3

        assert server.client.delete(path).status_code == 200
        back_up(tmp_path / "data", tmp_path / "backup.tar", lambda *_: None)
        log = "".join(server.log).encode()
    needles = [name.encode(), name.replace(" ", "%20").encode(), crop[50:150], *(blob[:64] for blob in blobs)]
    needles += [each.astype(kind).tobytes()[:64] for each in (vector, embedded) for kind in ("<f4", "<f2", "<f8")]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in files] + [log]

    assert len(files) > 5
    assert [needle for needle in needles for content in contents if needle in content] == []
