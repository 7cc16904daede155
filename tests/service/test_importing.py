"""People out of CompreFace and InsightFace Server, into a running server."""

import hashlib
import json
import signal
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import psycopg
import pytest
from click.testing import CliRunner, Result
from facesphere_client import Client
from live_server import LiveServer, command, environment, wait_until
from photos import astronaut, encode
from postgres_server import Cluster
from refusing import Answer, http_server

from service.__main__ import main
from service.commands.importing.pgdump import Dump

EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))
KEY, OTHER_KEY = str(uuid.uuid4()), str(uuid.uuid4())
# What its changelogs make, as far as it concerns people.
COMPREFACE = """
CREATE TABLE public.model (id bigint PRIMARY KEY, name varchar(255), guid varchar(36), api_key varchar(36),
    type varchar(1));
CREATE TABLE public.subject (id uuid PRIMARY KEY, api_key varchar(36), subject_name varchar(255),
    UNIQUE (api_key, subject_name));
CREATE TABLE public.img (id uuid PRIMARY KEY, content bytea NOT NULL, subject_id uuid);
CREATE TABLE public.embedding (id uuid PRIMARY KEY, subject_id uuid REFERENCES public.subject ON DELETE CASCADE,
    embedding float8[] NOT NULL, calculator varchar(255) NOT NULL, img_id uuid REFERENCES public.img);
"""
INSIGHTFACE = """
CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT NOT NULL, model_id TEXT NOT NULL);
CREATE TABLE persons (collection_id TEXT NOT NULL REFERENCES collections(id), id TEXT NOT NULL, name TEXT,
    external_id TEXT, PRIMARY KEY(collection_id, id));
CREATE TABLE face_samples (id TEXT PRIMARY KEY, collection_id TEXT NOT NULL, person_id TEXT NOT NULL,
    embedding BLOB NOT NULL, bounding_box_json TEXT NOT NULL, crop_path TEXT, crop_image BLOB);
"""


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    """Of a server whose collection `staff` is empty."""
    with Client(server.http) as made:
        made.put_collection("staff", "door")
        yield made
        made.delete_collection("staff")


def _import(server: LiveServer, *arguments: str | Path, collection: str = "staff") -> Result:
    words = ["import", *map(str, arguments), "--server", server.http, "--collection", collection]
    return CliRunner().invoke(main, words, env=environment())


def _faces(client: Client) -> dict[str, int]:
    return {each.name: each.faces for each in client.subjects("staff")}


class CompreFace:
    """Its tables in a real PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.execute(COMPREFACE)
        services = "(1, 'staff', 'g1', %s, 'R'), (2, 'visitors', 'g2', %s, 'R')"
        self.execute(f"INSERT INTO public.model VALUES {services}", KEY, OTHER_KEY)

    def execute(self, statement: str, *values: object) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement, values or None)

    def add(self, name: str, *images: bytes | None, key: str = KEY) -> list[str]:
        """A person with examples, of which some have no image; ids of the images."""
        subject, ids = uuid.uuid4(), []
        self.execute("INSERT INTO public.subject VALUES (%s, %s, %s)", subject, key, name)
        for content in images:
            image = None if content is None else uuid.uuid4()
            if image is not None:
                self.execute("INSERT INTO public.img VALUES (%s, %s, %s)", image, content, subject)
                ids.append(str(image))
            values = (uuid.uuid4(), subject, [0.5, -1.25], "facenet.Calculator", image)
            self.execute("INSERT INTO public.embedding VALUES (%s, %s, %s, %s, %s)", *values)
        return ids


@pytest.fixture
def compreface(cluster: Cluster) -> Iterator[tuple[CompreFace, str]]:
    """An empty one, and the name of its database."""
    database = cluster.new_database()
    yield CompreFace(cluster.url(database)), database
    cluster.execute(f"DROP DATABASE {database}")


def _photos(count: int, seed: int = 1) -> list[bytes]:
    """Files of one face that are all different."""
    noise = np.random.default_rng(seed)
    base = astronaut().astype(np.int16)
    return [
        encode(np.clip(base + noise.integers(-6, 7, base.shape), 0, 255).astype(np.uint8), "JPEG") for _ in range(count)
    ]


# CompreFace


def test_a_dump_of_compreface_is_enrolled_once_however_often_it_is_imported(
    server: LiveServer, client: Client, cluster: Cluster, compreface: tuple[CompreFace, str], tmp_path: Path
) -> None:
    source, database = compreface
    first, second, third = _photos(3)
    source.add("Ann \\ Zoë", first, second, None)
    (empty,) = source.add("Bob", EMPTY)
    source.add("Carl", None, None)
    source.add("Eve", third, key=OTHER_KEY)
    dump = tmp_path / "compreface.sql"
    dump.write_text(cluster.dump(database))

    ambiguous = _import(server, "compreface", dump)
    done = _import(server, "compreface", dump, "--service", "staff")
    enrolled = client.subject("staff", "Ann \\ Zoë")
    again = _import(server, "compreface", dump, "--service", KEY)

    assert (ambiguous.exit_code, ambiguous.stdout) == (2, "")
    assert "'staff', 'visitors'" in ambiguous.stderr
    assert done.exit_code == 0, done.output
    assert f"skipped: photo {empty} of 'Bob': face_not_found" in done.stderr
    assert done.stdout.splitlines() == [
        "3 people in the source, 3 photos of them",
        "enrolled: 2 photos; 1 people",
        "skipped: 1 photos or records, a line each above",
        "not importable: 1 people of whom there are only vectors of facenet.Calculator (2 of them); enrol them from"
        " new photos:",
        "  Carl (2)",
        "left out: 1 vectors of facenet.Calculator without a photo, of people who have other photos",
    ]
    assert again.exit_code == 0
    assert again.stdout.splitlines()[1] == "enrolled: 0 photos, 2 were there already; 1 people"
    assert client.subject("staff", "Ann \\ Zoë") == enrolled
    assert _faces(client) == {"Ann \\ Zoë": 2}
    assert client.identify("staff", first).subject == "Ann \\ Zoë"
    vector = np.asarray([0.5, -1.25], np.float32).tobytes()
    export = server.client.get("/collections/staff/subjects/Ann %5C Zoë/export").json()
    assert all(len(face["embedding"]) == 128 and vector not in str(face).encode() for face in export["faces"])


def test_an_import_that_is_killed_goes_on_where_it_was(
    server: LiveServer, client: Client, cluster: Cluster, compreface: tuple[CompreFace, str], tmp_path: Path
) -> None:
    source, database = compreface
    photos = _photos(24)
    for number in range(4):
        source.add(f"person {number}", *photos[6 * number : 6 * number + 6])
    dump = tmp_path / "compreface.sql"
    dump.write_text(cluster.dump(database))
    words = ["import", "compreface", str(dump), "--collection", "staff", "--server", f"grpc://{server.grpc}"]

    with subprocess.Popen(command(*words), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        wait_until(lambda: client.collection("staff").faces >= 3)
        killed.send_signal(signal.SIGKILL)
    begun = client.collection("staff").faces
    done = CliRunner().invoke(main, words, env=environment())

    assert begun < 24
    assert done.exit_code == 0, done.output
    assert _faces(client) == {f"person {number}": 6 for number in range(4)}


def test_bad_rows_of_a_dump_are_left_out_with_a_line_each(server: LiveServer, client: Client, tmp_path: Path) -> None:
    photo = _photos(1)[0]
    dump = tmp_path / "dump.sql"
    octal = "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\\\{byte:03o}" for byte in photo)
    dump.write_text(
        "COPY public.subject (id, api_key, subject_name) FROM stdin;\n"
        "s1\tk\tAnn\ns2\tk\t\\N\ns3\tk\ns4\tk\tC/D\n\\.\n\n"
        "COPY public.img (id, content, subject_id) FROM stdin;\n"
        f"i1\t\\\\x{photo.hex()}\ts1\ni2\t\\\\xzz\ts1\ni3\t{octal}\ts1\ni4\t\\\\x{photo.hex()}\ts4\n\\.\n\n"
        "COPY public.embedding (id, subject_id, embedding, calculator, img_id) FROM stdin;\n"
        "e1\ts1\t{1}\tc\ti1\ne2\t\\N\t{1}\tc\t\\N\ne3\ts1\t{1}\tc\tnowhere\n\\.\n"
    )

    done = _import(server, "compreface", dump)

    assert done.exit_code == 0, done.output
    assert _faces(client) == {"Ann": 2}
    assert sorted(line for line in done.stderr.splitlines() if line.startswith("skipped")) == [
        "skipped: a subject: a row of subject has 2 values in place of 3",
        "skipped: a subject: it has no id or no name",
        "skipped: an embedding: it is of nobody",
        "skipped: photo i2 of 'Ann': bytes are not in a form that PostgreSQL writes",
        "skipped: photo i4 of 'C/D': invalid_request: 'C/D' is no name: it has to have something in it besides dots,"
        " and no '/'",
    ]
    assert done.stdout.splitlines()[-1] == ("left out: 1 vectors of c without a photo, of people who have other photos")


def test_pictures_of_forms_that_the_server_does_not_take_are_sent_as_png(
    server: LiveServer, client: Client, tmp_path: Path
) -> None:
    pictures = {
        "gif": encode(astronaut(), "GIF"),
        "tiff": encode(astronaut(), "TIFF"),
        "ico": encode(astronaut()[:256, 100:356], "ICO"),
        "broken": b"II*\0" + bytes(8),
        "text": b"no picture",
    }
    faces = [{"image_id": name, "subject": name} for name in pictures]
    (tmp_path / "faces.json").write_text(json.dumps({"faces": faces}))
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)

    done = _import(server, "compreface", tmp_path)

    assert done.exit_code == 0, done.output
    assert _faces(client) == {"gif": 1, "tiff": 1, "ico": 1}
    assert "skipped: photo broken of 'broken': the TIFF file cannot be read" in done.stderr
    assert "skipped: photo text of 'text': invalid_image" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PGDMP\x01\x0e", "pg_restore"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"INSERT INTO public.subject VALUES ('a', 'b', 'c');\n", "--inserts"),
        (b"CREATE TABLE face (id uuid);\n", "no dump of CompreFace 0.6 or later"),
    ],
)
def test_a_dump_of_another_form_says_how_to_make_one(
    server: LiveServer, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "dump").write_bytes(content)

    done = _import(server, "compreface", tmp_path / "dump")

    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_rows_of_a_table_that_the_dump_has_not_are_none(tmp_path: Path) -> None:
    (tmp_path / "dump").write_text("COPY public.subject (id) FROM stdin;\na\n\\.\n")

    dump = Dump(tmp_path / "dump", frozenset({"subject", "img"}))

    assert [row for _, row in dump.rows("subject", "id", "missing")] == [["a", None]]
    assert list(dump.rows("img", "id")) == []


def test_a_folder_of_what_compreface_answered_is_enrolled(server: LiveServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "i1.jpg").write_bytes(_photos(1)[0])
    faces = [{"image_id": "i1", "subject": "Ann"}, {"image_id": "i2", "subject": "Bob"}, {"image_id": 3}]
    (tmp_path / "faces-0.json").write_text(json.dumps({"faces": faces, "page_number": 0}))
    (tmp_path / "faces-1.json").write_text("{")

    done = _import(server, "compreface", tmp_path)

    assert done.exit_code == 0, done.output
    assert _faces(client) == {"Ann": 1}
    assert done.stdout.splitlines()[2:] == [
        "skipped: 2 photos or records, a line each above",
        "not importable: 1 people of whom there are only vectors of another model (1 of them); enrol them from new"
        " photos:",
        "  Bob (1)",
    ]


def test_a_running_compreface_is_asked_page_by_page(server: LiveServer, client: Client) -> None:
    first, second = _photos(2)
    pages = [
        {"faces": [{"image_id": "i1", "subject": "Ann"}, {"image_id": "i2", "subject": "Bob"}], "total_pages": 2},
        {"faces": [{"image_id": "i3", "subject": "Ann"}], "total_pages": 2},
    ]
    with http_server() as source:
        source.script(*(Answer(200, page) for page in pages), Answer(200, first), Answer(200, b""), Answer(200, second))
        done = _import(server, "compreface", source.url, "--source-key", "k")

        assert done.exit_code == 0, done.output
        assert [line.partition("?")[0] for line in source.asked] == [
            *["GET /api/v1/recognition/faces"] * 2,
            *(f"GET /api/v1/recognition/faces/{image}/img" for image in ("i1", "i2", "i3")),
        ]
        assert _faces(client) == {"Ann": 2}
        assert "  Bob (1)" in done.stdout
        source.script(Answer(401, b""))
        refused = _import(server, "compreface", source.url, "--source-key", "wrong")
        assert (refused.exit_code, "401" in refused.stderr) == (2, True)
        assert _import(server, "compreface", source.url).exit_code == 2


# InsightFace Server


def _crop(photo: np.ndarray, box: tuple[int, int, int, int]) -> bytes:
    """As the server keeps it: the face's box in 112 x 112 pixels, whatever its proportions."""
    x, y, width, height = box
    crop = cv2.resize(photo[y : y + height, x : x + width], (112, 112), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


@pytest.fixture
def insightface(client: Client, tmp_path: Path) -> Path:
    """A data folder with a crop in the file, one beside it, one that is broken, and people without any."""
    photo = astronaut()
    x1, y1, x2, y2 = (round(each) for each in client.detect(encode(photo)).faces[0].bbox)
    box = (x1, y1, x2 - x1, y2 - y1)
    pixels = json.dumps({"pixels": dict(zip(("x", "y", "width", "height"), box, strict=True))})
    place = f"face-crops/{hashlib.sha256(b'employees').hexdigest()}/f2.jpg"
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(_crop(photo, box))
    with closing(sqlite3.connect(tmp_path / "server.db")) as db, db:
        db.executescript(INSIGHTFACE)
        db.execute("INSERT INTO collections VALUES ('employees', 'E', 'buffalo_l'), ('guests', 'G', 'buffalo_l')")
        for person, name in (("p1", "Ann"), ("p2", "Bob"), ("p3", None), ("p4", "Dan")):
            db.execute("INSERT INTO persons VALUES ('employees', ?, ?, NULL)", (person, name))
        for face, person, path, crop in (
            ("f1", "p1", None, _crop(photo, box)),
            ("f2", "p2", place, None),
            ("f3", "p2", None, b"no image"),
            ("f4", "p2", "../../etc/passwd", None),
            ("f5", "p3", None, None),
            ("f6", "p4", "face-crops/gone.jpg", None),
        ):
            row = (face, person, np.ones(4, np.float32).tobytes(), pixels, path, crop)
            db.execute("INSERT INTO face_samples VALUES (?, 'employees', ?, ?, ?, ?, ?)", row)
    return tmp_path / "server.db"


def test_crops_of_insightface_server_are_enrolled_and_found_again(
    server: LiveServer, client: Client, insightface: Path
) -> None:
    done = _import(server, "insightface", insightface, "--from", "employees")
    again = _import(server, "insightface", insightface, "--from", "employees")

    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "4 people in the source, 5 photos of them",
        "enrolled: 2 photos; 2 people",
        "skipped: 2 photos or records, a line each above",
        "not importable: 2 people of whom there are only vectors of buffalo_l (2 of them); enrol them from new photos:",
        "  p3 (1)",
        "  p4 (1)",
    ]
    assert "skipped: photo f3 of 'p2': its crop is no image of 112 x 112 pixels" in done.stderr
    assert "skipped: photo f4 of 'p2': its crop '../../etc/passwd' lies outside" in done.stderr
    assert "enrolled: 0 photos, 2 were there already" in again.stdout
    found = client.identify("staff", encode(astronaut()))
    assert {each.subject for each in found.candidates} == {"p1", "p2"}
    assert found.candidates[0].similarity > 0.8


def test_rows_of_any_type_are_a_line_each_and_no_command_to_a_terminal(
    server: LiveServer, client: Client, insightface: Path
) -> None:
    with closing(sqlite3.connect(insightface)) as db, db:
        db.execute("INSERT INTO persons VALUES ('employees', 'p\x1b]0;x\x07', 'Eve', NULL)")
        rows = (("t1", None, "text"), ("t2", None, 7), ("t3", "a\0b", None), ("t4", b"blob", None), (b"t5", "x", None))
        for face, path, crop in (*rows, ("t6", None, None)):
            row = (face, "p\x1b]0;x\x07", b"", b"\xff", path, crop)
            db.execute("INSERT INTO face_samples VALUES (?, 'employees', ?, ?, ?, ?, ?)", row)

    done = _import(server, "insightface", insightface, "--from", "employees")

    assert done.exit_code == 0, done.output
    assert "enrolled: 2 photos; 2 people" in done.stdout
    assert all(f"t{number}" in done.stderr for number in range(1, 6))
    assert not {"\x1b", "\x07", "\0"} & {*done.stderr, *done.stdout}
    assert "  p\\x1b]0;x\\x07 (1)" in done.stdout


def test_people_may_be_called_by_their_names_and_a_dry_run_enrols_nobody(
    server: LiveServer, client: Client, insightface: Path
) -> None:
    done = _import(server, "insightface", insightface, "--from", "employees", "--subject", "name", "--dry-run")

    assert done.stdout.splitlines()[0] == "3 people in the source, 5 photos of them"
    assert "skipped: face f5: person 'p3' has no name" in done.stderr
    assert _faces(client) == {}


def test_which_collection_is_asked_for_and_other_files_are_refused(
    server: LiveServer, insightface: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("no database, just some text that is longer than a header of SQLite is")
    for arguments, said in (
        ([insightface], "'employees', 'guests'"),
        ([insightface, "--from", "nobody"], "no collection 'nobody'"),
        ([tmp_path / "text.db"], "no SQLite file of InsightFace Server"),
        ([tmp_path / "missing.db"], "there is no file"),
    ):
        done = _import(server, "insightface", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_where_it_cannot_enrol_an_import_says_why_in_one_line(
    server: LiveServer, client: Client, insightface: Path
) -> None:
    words = ["insightface", insightface, "--from", "employees"]
    missing = _import(server, *words, collection="missing")
    created = _import(server, *words, "--purpose", "door", collection="made")
    unreachable = CliRunner().invoke(
        main, ["import", *map(str, words), "--collection", "staff", "--server", "ftp://nowhere"], env=environment()
    )

    assert (missing.exit_code, missing.stderr.count("\n"), "not_found" in missing.stderr) == (2, 1, True)
    assert created.exit_code == 0
    assert client.collection("made").subjects == 2
    client.delete_collection("made")
    assert (unreachable.exit_code, unreachable.stderr.count("\n")) == (2, 1)
