"""Retention under a clock that jumps: nobody is erased before their time because a clock was wrong."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from engines import Engine
from enrolment import MODEL, new_faces, units

from service.domain import CollectionSettings
from service.gallery.contract import Gallery

DAY = timedelta(days=1)
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Machine:
    """A wall clock that can be set, and a monotonic one that cannot."""

    def __init__(self) -> None:
        self.wall, self.count = BEGIN, 0.0

    def passes(self, time: timedelta) -> None:
        """Both clocks go on."""
        self.wall += time
        self.count += time.total_seconds()

    def open(self, engine: Engine) -> Gallery:
        """A gallery on this machine."""
        return engine.open(lambda: self.wall, lambda: self.count)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def _enrolled(machine: Machine, engine: Engine) -> Gallery:
    gallery = machine.open(engine)
    gallery.put_collection("lab", CollectionSettings("p", retention_days=30), MODEL)
    gallery.enrol("lab", MODEL.contract_id, "Ann", new_faces(units(1, 2)))
    assert gallery.erase_expired() == 0
    return gallery


def test_faces_are_erased_when_their_days_are_over(machine: Machine, engine: Engine) -> None:
    with closing(_enrolled(machine, engine)) as gallery:
        for _ in range(29 * 24):
            machine.passes(timedelta(hours=1))
            assert gallery.erase_expired() == 0
        machine.passes(timedelta(hours=25))

        assert gallery.erase_expired() == 2


def test_a_clock_that_jumps_ahead_and_comes_back_erases_nobody(machine: Machine, engine: Engine) -> None:
    with closing(_enrolled(machine, engine)) as gallery:
        machine.wall += 3650 * DAY
        for _ in range(20):
            machine.passes(timedelta(hours=1))
            assert gallery.erase_expired() == 0
        machine.wall -= 3650 * DAY
        machine.passes(timedelta(hours=10))

        assert gallery.erase_expired() == 0
        assert gallery.size("lab") == 2


def test_a_clock_that_stands_by_its_jump_for_a_day_is_believed(machine: Machine, engine: Engine) -> None:
    with closing(_enrolled(machine, engine)) as gallery:
        machine.wall += 40 * DAY
        erased = 0
        for _ in range(26):
            assert erased == 0
            machine.passes(timedelta(hours=1))
            erased = gallery.erase_expired()
            if erased:
                break

        assert erased == 2


def test_a_clock_that_was_set_right_does_not_erase_who_was_enrolled_since(machine: Machine, engine: Engine) -> None:
    machine.wall += 3650 * DAY  # wrong from the first start on
    with closing(_enrolled(machine, engine)) as gallery:
        machine.wall -= 3650 * DAY
        gallery.enrol("lab", MODEL.contract_id, "Bob", new_faces(units(2, 1)))
        for _ in range(60):
            machine.passes(timedelta(hours=1))
            assert gallery.erase_expired() == 0


def test_a_day_of_doubt_begins_anew_with_another_jump_and_goes_on_over_restarts(
    machine: Machine, engine: Engine
) -> None:
    gallery = _enrolled(machine, engine)
    machine.wall += timedelta(hours=2)
    for _ in range(23):
        machine.passes(timedelta(hours=1))
        assert gallery.erase_expired() == 0
    machine.wall += 3650 * DAY
    machine.passes(timedelta(hours=2))
    assert gallery.erase_expired() == 0  # a day after the first jump, and none after this one
    for _ in range(3):
        gallery.close()
        machine.count = 5.0
        gallery = machine.open(engine)
        for _ in range(7):
            machine.passes(timedelta(hours=1))
            assert gallery.erase_expired() == 0
    machine.passes(timedelta(hours=4))
    assert gallery.erase_expired() == 2
    gallery.close()


def test_a_restart_with_a_wrong_clock_erases_nobody(machine: Machine, engine: Engine) -> None:
    _enrolled(machine, engine).close()
    machine.wall += 365 * DAY
    machine.count = 5.0  # the machine was started anew

    with closing(machine.open(engine)) as gallery:
        assert gallery.erase_expired() == 0
        machine.passes(timedelta(hours=23))
        assert gallery.erase_expired() == 0


def test_a_stop_of_some_days_is_no_jump(machine: Machine, engine: Engine) -> None:
    with closing(_enrolled(machine, engine)) as gallery:
        machine.passes(28 * DAY)
        gallery.erase_expired()
    machine.passes(3 * DAY)
    machine.count = 5.0

    with closing(machine.open(engine)) as gallery:
        assert gallery.erase_expired() == 2
