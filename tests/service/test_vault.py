"""Keys: where they come from, what they close, and what is left of one that was destroyed."""

import base64
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StorageError, StorageFullError
from service.security.keyfolder import MasterKeySource, open_keys
from service.security.ledger import Anchor, Erasure, Head, Ledger
from service.security.master import master_key
from service.security.vault import Cipher, Vault, canonical

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def test_a_master_key_comes_from_a_value_a_file_a_command_or_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(TEXT + "\n")

    assert master_key(tmp_path, TEXT, None, None) == KEY
    assert master_key(tmp_path, None, file, None) == KEY
    assert master_key(tmp_path, None, None, f"cat {file}") == KEY
    made = master_key(tmp_path, None, None, None)
    assert made == master_key(tmp_path, None, None, None) != KEY
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("value", "file", "command", "message"),
    [
        ("short", None, None, "FACESPHERE_MASTER_KEY is no master key"),
        (base64.b64encode(bytes(31)).decode(), None, None, "no master key"),
        (None, "missing", None, "cannot read the master key"),
        (None, None, "false", "exit code 1"),
        (None, None, "no-such-program-here", "cannot be run"),
        (None, None, "'unclosed", "cannot be run"),
        (None, None, " ", "cannot be run"),
        (None, None, "echo nonsense", "no master key"),
    ],
)
def test_what_is_no_master_key_is_said_in_one_line(
    tmp_path: Path, value: str | None, file: str | None, command: str | None, message: str
) -> None:
    with pytest.raises(StorageError, match=message) as refused:
        master_key(tmp_path, value, tmp_path / file if file else None, command)

    assert "\n" not in refused.value.message


def test_what_is_sealed_opens_with_its_own_key_and_context_only() -> None:
    cipher, other = Cipher(KEY), Cipher(bytes(32))
    sealed = cipher.seal(b"template", b"of Ann")

    assert cipher.open(sealed, b"of Ann") == b"template"
    assert b"template" not in sealed
    assert cipher.seal(b"template", b"of Ann") != sealed
    for broken in (sealed[:-1], sealed[1:], b"", sealed[:11], bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(StorageError, match="damaged"):
            cipher.open(broken, b"of Ann")
    for wrong, context in ((cipher, b"of Bob"), (other, b"of Ann")):
        with pytest.raises(StorageError, match="damaged"):
            wrong.open(sealed, context)


FIELDS = st.tuples() | st.lists(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(), max_size=4
).map(tuple)


@given(FIELDS, FIELDS)
def test_rows_have_one_form_only_if_they_are_the_same(first: tuple[object, ...], second: tuple[object, ...]) -> None:
    same = [type(each) for each in first] == [type(each) for each in second] and repr(first) == repr(second)

    assert (canonical(first) == canonical(second)) == same


def test_a_keyring_gives_each_collection_its_own_key_back(tmp_path: Path) -> None:
    vault = Vault(tmp_path, KEY)
    sealed = vault.create("a").seal(b"secret", b"")
    vault.create("b")

    again = Vault(tmp_path, KEY)

    assert again.cipher("a").open(sealed, b"") == b"secret"
    with pytest.raises(StorageError, match="damaged"):
        again.cipher("b").open(sealed, b"")
    assert stat.S_IMODE((tmp_path / "keyring.json").stat().st_mode) == 0o600


def test_a_destroyed_key_is_gone_from_memory_and_disk_and_destroying_it_twice_is_fine(tmp_path: Path) -> None:
    vault = Vault(tmp_path, KEY)
    vault.create("a")
    vault.create("b")
    wrapped = json.loads((tmp_path / "keyring.json").read_text())["keys"]["a"].encode()

    vault.destroy("a")
    vault.destroy("a")

    for each in (vault, Vault(tmp_path, KEY)):
        assert not each.knows("a")
        assert each.knows("b")
        with pytest.raises(StorageError, match="no key for collection a"):
            each.cipher("a")
    assert not any(wrapped in path.read_bytes() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "keys": 3}', '{"format": 9}', "\x00"]
)
def test_a_damaged_keyring_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "keyring.json").write_text(content)

    with pytest.raises(StorageError, match=r"keyring\.json"):
        Vault(tmp_path, KEY)

    assert (tmp_path / "keyring.json").read_text() == content


def test_every_bit_of_a_wrapped_key_matters(tmp_path: Path) -> None:
    Vault(tmp_path, KEY).create("a")
    file = tmp_path / "keyring.json"
    document = json.loads(file.read_text())
    raw = base64.b64decode(document["keys"]["a"])
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        file.write_text(json.dumps({"format": 1, "keys": {"a": base64.b64encode(changed).decode()}}))
        with pytest.raises(StorageError, match="cannot be opened"):
            Vault(tmp_path, KEY)


def test_the_ledger_keeps_what_was_added_and_forgets_half_a_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, KEY)
    first, second = Erasure("t1", "c", "s", ("f", "g")), Erasure("t2", "c", None, ())
    ledger.add(first)
    with (tmp_path / "erasures.jsonl").open("ab") as file:
        file.write(b'0123 ["t3", "half')  # the power failed here
    assert ledger.read() == [first]

    ledger.add(second)

    assert Ledger(tmp_path, KEY).read() == [first, second]


def test_a_ledger_that_was_changed_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, KEY)
    ledger.add(Erasure("t1", "c", "s", ("f",)))
    file = tmp_path / "erasures.jsonl"
    line = file.read_bytes()
    for place in range(len(line) - 1):
        file.write_bytes(line[:place] + bytes([line[place] ^ 2]) + line[place + 1 :])
        with pytest.raises(StorageError, match="line 1 of"):
            ledger.read()


def test_the_anchor_never_goes_back_and_is_damaged_rather_than_nothing(tmp_path: Path) -> None:
    anchor = Anchor(tmp_path)
    assert anchor.get() is None
    old, new = Head(7, b"\x02" * 32, b"\x03" * 16), Head(10_000, b"\x01" * 32, b"\x04" * 16)
    anchor.set(old)
    anchor.set(new)
    Anchor(tmp_path).set(old)  # another program that was slower
    assert Anchor(tmp_path).get() == new

    (tmp_path / "anchor").write_text("nonsense")
    with pytest.raises(StorageError, match="accept-loss"):
        anchor.get()
    anchor.forget()
    anchor.forget()
    assert anchor.get() is None


def test_a_folder_of_keys_is_for_its_owner_only_and_needs_its_own_master_key(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    open_keys(folder, MasterKeySource(value=TEXT)).vault.create("a")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (folder / "master.key").exists()
    with pytest.raises(StorageError, match="not its master key"):
        open_keys(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="for the keys"):
        open_keys(tmp_path / "file")


def test_a_keyring_that_cannot_be_written_keeps_what_it_had(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "keys", KEY)
    vault.create("a")
    (tmp_path / "keys" / "keyring.json.tmp").mkdir()  # in the way of the new file

    with pytest.raises((StorageError, StorageFullError), match="cannot write"):
        vault.create("b")
    with pytest.raises((StorageError, StorageFullError), match="cannot write"):
        vault.destroy("a")

    assert vault.knows("a")
    assert not vault.knows("b")
    assert Vault(tmp_path / "keys", KEY).knows("a")
