"""API keys: what is kept of them, who notices a change, and what a key may do."""

import re
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from galleries import keys_of, open_records

from service.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    StorageError,
    UnauthenticatedError,
)
from service.gallery.backup import back_up, restore
from service.gallery.store import Store, open_store
from service.security.access import Access
from service.security.keys import KeyGrant
from service.security.rules import SCOPES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "data"
    folder.mkdir()
    with closing(open_store(folder, keys_of(folder))) as store:
        yield store


@pytest.fixture
def access(store: Store, tmp_path: Path) -> Access:
    return Access(None, store.keys, keys_of(tmp_path / "data").vault.pepper)


def _grant(*scopes: str, **others: Any) -> KeyGrant:
    return KeyGrant("test", frozenset(scopes or ("embed",)), **others)


def test_a_key_is_random_and_only_a_digest_of_it_is_kept(store: Store, tmp_path: Path) -> None:
    tokens = [store.keys.create(_grant(), "me")[1] for _ in range(5)]

    assert len({token[12:] for token in tokens}) == 5
    assert all(re.fullmatch(r"fs_[a-z2-9]{8}_[A-Za-z0-9_-]{43}", token) for token in tokens)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(token.encode() in stored or token[12:].encode() in stored for token in tokens)


def test_without_keys_everybody_on_this_machine_is_let_in_and_with_one_nobody_without(
    store: Store, access: Access
) -> None:
    assert access.check(None, "POST /embed").id == "local"

    key, token = store.keys.create(_grant("embed"), "me")

    assert access.check(f"Bearer {token}", "POST /embed").id == key.id
    for wrong in (None, "", "Bearer ", f"Basic {token}", f"Bearer {token}x", f"Bearer {token[:-1]}", token):
        with pytest.raises(UnauthenticatedError):
            access.check(wrong, "POST /embed")
    last = "A" if token[-1] != "A" else "B"
    with pytest.raises(UnauthenticatedError):
        access.check(f"Bearer {token[:-1]}{last}", "POST /embed")


def test_revoking_the_last_key_does_not_open_the_door(store: Store, access: Access) -> None:
    key, token = store.keys.create(_grant(), "me")
    store.keys.revoke(key.id, "me")

    for header in (None, f"Bearer {token}"):
        with pytest.raises(UnauthenticatedError):
            access.check(header, "POST /embed")


def test_a_key_is_revoked_for_a_running_server_at_once_by_another_process(
    store: Store, access: Access, tmp_path: Path
) -> None:
    key, token = store.keys.create(_grant(), "me")
    assert access.check(f"Bearer {token}", "POST /embed").id == key.id

    with closing(open_store(tmp_path / "data", keys_of(tmp_path / "data"))) as other:
        other.keys.revoke(key.id, "cli")

    with pytest.raises(UnauthenticatedError):
        access.check(f"Bearer {token}", "POST /embed")


def test_a_key_is_good_for_its_scopes_and_admin_for_all(store: Store, access: Access) -> None:
    operations = {
        "embed": "POST /embed",
        "verify": "POST /verify",
        "identify": "Gallery/Identify",
        "enroll": "Gallery/Enroll",
        "admin": "GET /audit",
    }
    for scope in SCOPES:
        _, token = store.keys.create(_grant(scope), "me")
        for needed, operation in operations.items():
            if scope in (needed, "admin"):
                access.check(f"Bearer {token}", operation)
            else:
                with pytest.raises(PermissionDeniedError, match="lacks the scope"):
                    access.check(f"Bearer {token}", operation)


def test_what_is_not_in_the_table_is_for_administrators(store: Store, access: Access) -> None:
    _, admin = store.keys.create(_grant("admin"), "me")
    _, other = store.keys.create(_grant("embed", "verify", "identify", "enroll"), "me")

    access.check(f"Bearer {admin}", "POST /something/new")
    with pytest.raises(PermissionDeniedError):
        access.check(f"Bearer {other}", "POST /something/new")


def test_a_key_may_be_kept_to_some_collections(store: Store, access: Access) -> None:
    _, token = store.keys.create(_grant("identify", collections=frozenset({"lab"})), "me")
    operation = "POST /collections/{collection}/identify"

    assert access.check(f"Bearer {token}", operation, "lab").sees("lab")
    with pytest.raises(PermissionDeniedError, match="'gate'"):
        access.check(f"Bearer {token}", operation, "gate")


def test_an_expired_key_opens_nothing(store: Store, access: Access) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    _, token = store.keys.create(_grant(expires_at=past), "me")

    with pytest.raises(UnauthenticatedError):
        access.check(f"Bearer {token}", "POST /embed")


@pytest.mark.parametrize("limit", ["requests_per_minute", "requests_per_day"])
def test_a_key_that_is_used_too_often_must_wait(store: Store, access: Access, limit: str) -> None:
    _, token = store.keys.create(_grant(**{limit: 3}), "me")
    _, free = store.keys.create(_grant(), "me")

    for _ in range(3):
        access.check(f"Bearer {token}", "POST /embed")
    with pytest.raises(RateLimitedError) as limited:
        access.check(f"Bearer {token}", "POST /embed")

    assert limited.value.details["retry_after_s"] >= 1
    access.check(f"Bearer {free}", "POST /embed")


def test_a_rotated_key_works_for_a_while_beside_its_successor(store: Store, access: Access) -> None:
    grant = _grant("identify", collections=frozenset({"lab"}), requests_per_minute=1000)
    old, old_token = store.keys.create(grant, "me")

    new, new_token = store.keys.rotate(old.id, timedelta(hours=1), "me")

    assert new.grant == grant
    for token in (old_token, new_token):
        access.check(f"Bearer {token}", "POST /collections/{collection}/identify", "lab")
    assert timedelta(minutes=59) < store.keys.find(old.id).grant.expires_at - datetime.now(UTC) < timedelta(minutes=61)  # type: ignore[operator]
    _, at_once = store.keys.rotate(new.id, timedelta(0), "me")
    with pytest.raises(UnauthenticatedError):
        access.check(f"Bearer {new_token}", "GET /models")
    access.check(f"Bearer {at_once}", "GET /models")
    with pytest.raises(NotFoundError, match="make a new one"):
        store.keys.rotate(new.id, timedelta(0), "me")


def test_when_a_key_was_used_last_is_kept(store: Store, access: Access) -> None:
    key, token = store.keys.create(_grant(), "me")
    access.check(f"Bearer {token}", "POST /embed")

    store.keys.note_used(access.last_used())

    assert store.keys.find(key.id).last_used_at is not None
    assert access.last_used() == {}


@pytest.mark.parametrize(
    "change",
    [
        "scopes = '[\"admin\"]'",
        "collections = NULL",
        "expires_at = NULL",
        "revoked_at = NULL",
        "requests_per_minute = NULL",
        "digest = zeroblob(32)",
    ],
)
def test_nobody_gives_themselves_rights_with_an_sql_editor(store: Store, tmp_path: Path, change: str) -> None:
    expires = datetime.now(UTC) + timedelta(days=1)
    grant = _grant("embed", collections=frozenset({"lab"}), expires_at=expires, requests_per_minute=5)
    key, _ = store.keys.create(grant, "me")
    store.keys.revoke(key.id, "me")
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3")) as db, db:
        db.execute(f"UPDATE api_keys SET {change}")

    with pytest.raises(StorageError, match="not what was stored"):
        store.keys.current()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scopes": frozenset()}, "without scopes"),
        ({"scopes": frozenset({"fly"})}, "unknown scope 'fly'"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"collections": frozenset()}, "leave collections out"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_day": 10**10}, "requests_per_day"),
        ({"expires_at": datetime(2027, 1, 1)}, "time zone"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        KeyGrant(**{"name": "n", "scopes": frozenset({"embed"}), **changes})


def test_keys_that_are_made_and_revoked_stand_in_the_audit_log_without_their_secret(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with closing(open_records(folder / "gallery.sqlite3")) as records:
        key, token = records.store.keys.create(_grant(), "anna")
        records.store.keys.revoke(key.id, "bert")
        records.store.keys.revoke(key.id, "bert")
        entries = records.store.audit.page(None, 10)

    assert [(entry["actor"], entry["event"]) for entry in entries[:2]] == [
        ("bert", "key.revoke"),
        ("anna", "key.create"),
    ]
    assert len(entries) == 3
    assert token[12:] not in str(entries)


def test_checking_a_key_costs_next_to_nothing(store: Store, access: Access) -> None:
    _, token = store.keys.create(_grant(requests_per_minute=10**9), "me")
    times = []
    for _ in range(200):
        began = time.perf_counter()
        access.check(f"Bearer {token}", "POST /embed")
        times.append(time.perf_counter() - began)

    assert statistics.median(times) < 0.01  # a slow hash would take ten times that


def test_a_revoked_key_is_not_brought_back_with_sql_even_with_its_old_seal(
    store: Store, access: Access, tmp_path: Path
) -> None:
    key, token = store.keys.create(_grant("admin"), "me")
    path = tmp_path / "data" / "gallery.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        before = db.execute("SELECT revoked_at, mac FROM api_keys").fetchone()
    store.keys.revoke(key.id, "me")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE api_keys SET revoked_at = ?, mac = ?", before)

    with pytest.raises(StorageError, match="not those that were stored"):
        access.check(f"Bearer {token}", "POST /embed")


def test_deleting_the_keys_with_sql_does_not_open_the_door(store: Store, access: Access, tmp_path: Path) -> None:
    store.keys.create(_grant(), "me")
    assert access.required
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3")) as db, db:
        db.execute("DELETE FROM api_keys")

    with pytest.raises((StorageError, UnauthenticatedError)):
        access.check(None, "POST /embed")


def test_a_backup_brings_no_revoked_key_back_and_does_not_open_the_door(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    keys = keys_of(folder)
    with closing(open_store(folder, keys)):
        back_up(folder, tmp_path / "before the first.tar", lambda *_: None)
    with closing(open_store(folder, keys)) as store:
        key, token = store.keys.create(_grant(), "me")
        back_up(folder, tmp_path / "before it was revoked.tar", lambda *_: None)
        store.keys.revoke(key.id, "me")

    for name in ("before it was revoked", "before the first"):
        restore(tmp_path / f"{name}.tar", folder, keys_of(folder), True, lambda *_: None)
        with closing(open_store(folder, keys_of(folder))) as store:
            access = Access(None, store.keys, keys.vault.pepper)
            assert access.required
            for header in (None, f"Bearer {token}"):
                with pytest.raises(UnauthenticatedError):
                    access.check(header, "POST /embed")
