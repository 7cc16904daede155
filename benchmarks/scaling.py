"""The gallery in PostgreSQL beside the embedded one: recall, and how long each call takes.

    python benchmarks/scaling.py [--faces 100000] [--dimension 128]

Starts a PostgreSQL of its own out of the development wheel, fills both engines with the same people (ten noisy faces
each), and lets them take turns. Recall is of people, against NumPy over the vectors themselves. Medians, and the 95th
percentile in brackets; fsync is on.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
from commandline import in_one_line, positive

sys.path[:1] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent / "tests/support"),
]

from postgres_server import Cluster, running

from models.preprocess import l2_normalize
from service.domain import CollectionSettings, ModelInfo, NewFace
from service.gallery.contract import Gallery, Match
from service.gallery.embedded import EmbeddedGallery
from service.gallery.postgres import indexes
from service.gallery.postgres.gallery import PostgresGallery
from service.security.keyfolder import open_keys

FACES_EACH = 10
_CALLS = 100  # of each of four callers
Times = dict[str, list[float]]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=positive, default=100_000)
    parser.add_argument("--dimension", type=positive, default=128)
    parser.add_argument("--probes", type=positive, default=200)
    parser.add_argument("--erasures", type=positive, default=5)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    indexes.INDEX_FROM = 2**62  # built when it is measured
    crowd = _crowd(asked.faces // FACES_EACH, asked.dimension)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(shared_buffers="1GB", maintenance_work_mem="1GB", max_wal_size="4GB") as cluster,
    ):
        _measure(asked, crowd, Path(folder), cluster)


def _measure(asked: argparse.Namespace, crowd: np.ndarray, folder: Path, cluster: Cluster) -> None:
    model = ModelInfo("random", "0" * 16, asked.dimension)
    keys, database = open_keys(folder / "keys"), cluster.new_database()
    with (
        closing(EmbeddedGallery(folder / "data", keys)) as embedded,
        closing(PostgresGallery(cluster.url(database), keys.vault.master)) as postgres,
    ):
        engines: dict[str, Gallery] = {"embedded": embedded, "PostgreSQL": postgres}
        times: Times = {}
        for gallery in engines.values():
            gallery.put_collection("people", CollectionSettings("benchmark"), model)
        _fill(engines, crowd, model, times)
        probes = _probes(crowd, asked.probes)
        truth = [_nearest(crowd, probe) for probe in probes]
        recalls = _search(engines, probes, truth, model, times, "")
        began = time.perf_counter()
        indexes.INDEX_FROM = 1
        postgres.indexes.build_due()
        built = time.perf_counter() - began
        cluster.execute("VACUUM ANALYZE", database)
        recalls |= _search({"PostgreSQL": postgres}, probes, truth, model, times, ", HNSW")
        callers = _callers({"embedded": embedded, "PostgreSQL, HNSW": postgres}, probes, model)
        _change(engines, model, asked.erasures, times)
        _print(asked, times, recalls)
        print(f"building the index: {built:.0f} s;  {_sizes(cluster, database, asked.faces)}")
        for name, (searches, enrolments) in callers.items():
            print(f"{name}: {searches:.0f} searches/s, {enrolments:.0f} enrolments/s with four callers")
        embedded.close()
        began = time.perf_counter()
        EmbeddedGallery(folder / "data", keys).close()
        print(f"embedded: {time.perf_counter() - began:.1f} s to start;  {_folder_size(folder / 'data')} MB in files")


def _crowd(people: int, dimension: int) -> np.ndarray:
    """(people, FACES_EACH, dimension)."""
    rng = np.random.default_rng(0)
    centres = l2_normalize(rng.normal(size=(people, dimension))).repeat(FACES_EACH, axis=0)
    noisy = centres + rng.normal(size=centres.shape) * 0.9 / np.sqrt(dimension)
    return l2_normalize(noisy).reshape(people, FACES_EACH, dimension)


def _probes(crowd: np.ndarray, count: int) -> np.ndarray:
    """New faces of enrolled people, and as many strangers."""
    rng = np.random.default_rng(1)
    known = crowd[rng.choice(len(crowd), count // 2, replace=False)].mean(axis=1)
    known = l2_normalize(known) + rng.normal(size=known.shape) * 0.9 / np.sqrt(crowd.shape[2])
    return l2_normalize(np.concatenate([known, rng.normal(size=(count - len(known), crowd.shape[2]))]))


def _nearest(crowd: np.ndarray, probe: np.ndarray) -> list[str]:
    return [f"person {number}" for number in np.argsort(-(crowd @ probe).max(axis=1))[:10]]


def _fill(engines: dict[str, Gallery], crowd: np.ndarray, model: ModelInfo, times: Times) -> None:
    for number, vectors in enumerate(crowd):
        faces = [NewFace(vector, 0.5, None) for vector in vectors]
        for name, gallery in engines.items():
            _timed(
                times,
                f"{name}|enrol a person of 10 faces",
                lambda g=gallery, f=faces, n=number: g.enrol("people", model.contract_id, f"person {n}", f),
            )


def _search(
    engines: dict[str, Gallery], probes: np.ndarray, truth: list[list[str]], model: ModelInfo, times: Times, how: str
) -> dict[str, str]:
    """Recall at 1 and at 10 of each, for enrolled people and for strangers."""
    found: dict[str, list[list[Match]]] = {name: [] for name in engines}
    for probe in probes:
        for name, gallery in engines.items():
            what = f"{name}{how}|search"
            found[name].append(
                _timed(times, what, lambda g=gallery, p=probe: g.search("people", model.contract_id, p, 10)[0])
            )
    half = len(probes) // 2
    return {
        f"{name}{how}": ", ".join(
            f"{who} {_recall(each[part], truth[part], 1):.3f} {_recall(each[part], truth[part], 10):.3f}"
            for who, part in (("known", slice(half)), ("strangers", slice(half, None)))
        )
        for name, each in found.items()
    }


def _recall(found: list[list[Match]], truth: list[list[str]], first: int) -> float:
    """Share of the `first` nearest people that were found among as many."""
    hits = [
        len({match.subject for match in matches[:first]} & set(best[:first])) / first
        for matches, best in zip(found, truth, strict=True)
    ]
    return statistics.mean(hits)


def _callers(engines: dict[str, Gallery], probes: np.ndarray, model: ModelInfo) -> dict[str, tuple[float, float]]:
    """Searches and enrolments a second of four threads."""
    rates = {}
    for name, gallery in engines.items():

        def search(_: int, gallery: Gallery = gallery) -> None:
            for number in range(_CALLS):
                gallery.search("people", model.contract_id, probes[number % len(probes)], 10)

        def enrol(worker: int, gallery: Gallery = gallery) -> None:
            for number in range(_CALLS):
                face = NewFace(probes[number % len(probes)].astype(np.float32), 0.5, None)
                gallery.enrol("people", model.contract_id, f"caller {worker}-{number}", [face])

        rates[name] = (_rate(search), _rate(enrol))
    return rates


def _rate(work: Callable[[int], None]) -> float:
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 4 * _CALLS / (time.perf_counter() - began)


def _change(engines: dict[str, Gallery], model: ModelInfo, rounds: int, times: Times) -> None:
    face = [NewFace(l2_normalize(np.ones((1, model.dimension)))[0], 0.5, None)]
    for number in range(rounds):
        for name, gallery in engines.items():
            at = f"{name}|%s in the full gallery"
            _timed(
                times,
                at % "enrol a face",
                lambda g=gallery, n=number: g.enrol("people", model.contract_id, f"new {n}", face),
            )
            _timed(times, at % "erase a person", lambda g=gallery, n=number: g.erase("people", f"new {n}"))


def _timed(times: Times, name: str, call: Callable[[], object]) -> object:
    began = time.perf_counter()
    result = call()
    times.setdefault(name, []).append(time.perf_counter() - began)
    return result


def _print(asked: argparse.Namespace, times: Times, recalls: dict[str, str]) -> None:
    print(f"\n{asked.faces:,} faces of {asked.dimension} values, ms")
    for name, seconds in sorted(times.items(), key=lambda item: item[0].split("|")[::-1]):
        engine, what = name.split("|")
        recall = f"recall@1 @10: {recalls[engine]}" if what == "search" else ""
        median, tail = 1e3 * statistics.median(seconds), 1e3 * float(np.percentile(seconds, 95))
        print(f"{what:35}{engine:20}{f'{median:.2f} ({tail:.2f})':>20}  {recall}")


def _sizes(cluster: Cluster, database: str, faces: int) -> str:
    """Bytes a face."""
    ((table, whole, index),) = cluster.execute(
        "SELECT sum(pg_table_size(inhrelid)), sum(pg_total_relation_size(inhrelid)), (SELECT"
        " sum(pg_relation_size(indexrelid)) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%by_code')"
        " FROM pg_inherits WHERE inhparent = 'faces'::regclass",
        database,
    )
    rows, other, code = int(str(table)), int(str(whole)) - int(str(table)) - int(str(index)), int(str(index))
    return f"bytes a face: rows {rows // faces}, HNSW {code // faces}, other indexes {other // faces}"


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 2**20


if __name__ == "__main__":
    in_one_line(main)
