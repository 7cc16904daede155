"""Searches go on while an erasure writes the whole file anew."""

import threading
import time
from contextlib import closing
from pathlib import Path

from enrolment import MODEL, SETTINGS, new_faces, units
from galleries import open_gallery


def test_an_erasure_is_complete_beside_busy_searches_and_searches_do_not_wait_for_it(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        for number in range(4):
            gallery.enrol("lab", MODEL.contract_id, f"crowd {number}", new_faces(units(number, 4000)))
        stop, searches, erasures = threading.Event(), [], []
        probe = units(99, 1)[0]

        def search() -> None:
            while not stop.is_set():
                began = time.monotonic()
                gallery.search("lab", MODEL.contract_id, probe, 5)
                searches.append((began, time.monotonic()))

        searching = [threading.Thread(target=search) for _ in range(2)]
        for each in searching:
            each.start()
        for number in range(5):
            gallery.enrol("lab", MODEL.contract_id, f"Ann {number}", new_faces(units(200 + number, 1)))
            began = time.monotonic()
            assert gallery.erase("lab", f"Ann {number}").overwritten
            erasures.append((began, time.monotonic()))
        stop.set()
        for each in searching:
            each.join()

    within = [
        search for search in searches if any(began < search[0] and search[1] < ended for began, ended in erasures)
    ]
    assert len(within) > len(erasures)
