"""Jobs about models: what was asked for and how far it is, whoever is stopped in between."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from engines import Engine, Postgres
from enrolment import MODEL

from service.domain import ModelInfo
from service.errors import NotFoundError, StorageError
from service.gallery.contract import Gallery

OLD = MODEL
NEW = ModelInfo("better-model", "fedcba9876543210", 24)


@pytest.fixture
def gallery(engine: Engine) -> Iterator[Gallery]:
    """An empty gallery."""
    with closing(engine.open()) as gallery:
        yield gallery


def test_jobs_are_made_told_changed_and_listed_newest_first(gallery: Gallery) -> None:
    first = gallery.jobs.create("activate", NEW.id, "key-1")
    second = gallery.jobs.create("rollback", OLD.id, "key-2")
    assert (first.state, first.progress, first.error, first.result) == ("queued", 0.0, None, {})
    assert (first.kind, first.model_id, first.actor) == ("activate", NEW.id, "key-1")
    assert gallery.jobs.list() == [second, first]
    assert gallery.jobs.list(1) == [second]

    result = {"b": {"faces": 7, "state": "done"}, "a": [1, 2.5, None, "é"]}
    told = gallery.jobs.update(replace(first, state="running", progress=0.25, result=result))

    assert (told.state, told.progress, told.result) == ("running", 0.25, result)
    assert told.updated_at >= first.updated_at
    assert gallery.jobs.get(first.id) == told
    assert gallery.jobs.get(second.id) == second
    failed = gallery.jobs.update(replace(told, state="failed", error="no room"))
    assert gallery.jobs.get(first.id).error == failed.error == "no room"


def test_a_job_that_is_not_there_is_not_found(gallery: Gallery) -> None:
    job = gallery.jobs.create("follow", NEW.id, "key-1")
    with pytest.raises(NotFoundError, match="nowhere"):
        gallery.jobs.get("nowhere")
    with pytest.raises(NotFoundError, match="nowhere"):
        gallery.jobs.update(replace(job, id="nowhere"))


def test_what_became_of_a_collection_is_told_of_a_job_that_is_over_too(gallery: Gallery) -> None:
    job = gallery.jobs.create("activate", NEW.id, "key-1")
    gallery.jobs.update(replace(job, state="running", progress=0.5, result={"a": {"state": "switched"}}))
    gallery.jobs.cancel_open()

    told = gallery.jobs.conclude(job.id, "b", {"state": "cancelled"})

    assert gallery.jobs.get(job.id) == told
    assert (told.state, told.progress) == ("cancelled", 0.5)
    assert told.result == {"a": {"state": "switched"}, "b": {"state": "cancelled"}}
    with pytest.raises(NotFoundError, match="nowhere"):
        gallery.jobs.conclude("nowhere", "b", {})


def test_a_job_that_was_cancelled_or_is_over_stays_so(gallery: Gallery) -> None:
    queued, running, done = (gallery.jobs.create("activate", NEW.id, "key-1") for _ in range(3))
    running = gallery.jobs.update(replace(running, state="running", progress=0.5))
    done = gallery.jobs.update(replace(done, state="done", progress=1))

    gallery.jobs.cancel_open()

    assert [each.state for each in gallery.jobs.list()] == ["done", "cancelled", "cancelled"]
    assert gallery.jobs.get(running.id).progress == 0.5
    assert gallery.jobs.update(replace(running, state="done")).state == "cancelled"
    assert gallery.jobs.update(replace(queued, state="running")).state == "cancelled"
    assert gallery.jobs.get(done.id) == done == gallery.jobs.update(replace(done, state="running"))


def test_jobs_survive_the_program(engine: Engine) -> None:
    with closing(engine.open()) as gallery:
        job = gallery.jobs.create("activate", NEW.id, "key-1")
        job = gallery.jobs.update(replace(job, state="running", progress=1 / 3, result={"x": 1 / 3}))
    with closing(engine.open()) as gallery:
        assert gallery.jobs.list() == [job]
        gallery.jobs.create("rollback", OLD.id, "key-1")
        assert [each.kind for each in gallery.jobs.list()] == ["rollback", "activate"]


def test_a_job_that_was_changed_by_hand_is_noticed(engine: Engine) -> None:
    with closing(engine.open()) as gallery:
        job = gallery.jobs.create("activate", NEW.id, "key-1")
        statement = "UPDATE jobs SET model_id = 'mine'"
        if isinstance(engine, Postgres):
            engine.execute(statement)
        else:
            database = gallery._database  # type: ignore[attr-defined]
            with database.transaction():
                database.write(statement)
        for call in (lambda: gallery.jobs.get(job.id), gallery.jobs.list, lambda: gallery.jobs.update(job)):
            with pytest.raises(StorageError, match="damaged"):
                call()


def test_old_jobs_go_when_there_are_many(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.gallery import jobs

    monkeypatch.setattr(jobs, "KEPT", 5)
    made = [gallery.jobs.create("follow", f"model {number}", "key-1") for number in range(8)]

    assert gallery.jobs.list() == made[:2:-1]


def test_it_is_a_servers_turn_when_no_other_works_on_jobs(engine: Engine) -> None:
    with closing(engine.open()) as gallery:
        with gallery.jobs.turn() as mine:
            assert mine
            if isinstance(engine, Postgres):
                with closing(engine.open()) as other, other.jobs.turn() as theirs:
                    assert not theirs
        with gallery.jobs.turn() as mine:
            assert mine
