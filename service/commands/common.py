"""What several commands share."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.errors import InvalidRequestError
from service.gallery.engine import postgres_store
from service.gallery.store import FILE, Store, open_store
from service.security.keyfolder import KeyFolder, open_keys
from service.settings import Settings, read_settings

if TYPE_CHECKING:
    from service.gallery.postgres.gallery import PostgresStore

data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="Gallery and models. Default: data.")
keys_dir = click.option("--keys-dir", type=click.Path(path_type=Path), help="Keyring. Default: DATA_DIR.keys.")
_UNITS = {"m": 60, "h": 3600, "d": 86400}


def settings_and_keys(flags: dict[str, Any]) -> tuple[Settings, KeyFolder]:
    """The settings, and the keys of their data folder."""
    settings = read_settings(**flags)
    return settings, open_keys(settings.key_folder, settings.master_key_source)


@contextlib.contextmanager
def opened_store(flags: dict[str, Any], create: bool = False, newest: bool = True) -> Iterator[Store]:
    """The gallery's file, which a server may have open too; `create`: begun if there is none; `newest`: as there."""
    settings = read_settings(**flags)
    if not create and not (settings.data_dir / FILE).exists():
        raise InvalidRequestError(f"there is no gallery in {settings.data_dir}")
    settings, keys = settings_and_keys(flags)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.closing(open_store(settings.data_dir, keys, newest=newest)) as store:
        yield store


@contextlib.contextmanager
def opened_gallery(
    flags: dict[str, Any], create: bool = False, newest: bool = True
) -> Iterator["Store | PostgresStore"]:
    """The same, or what `gallery_url` names in its place."""
    urls = read_settings(**flags).gallery_urls
    if urls is None:
        with opened_store(flags, create, newest) as store:
            yield store
        return
    _, keys = settings_and_keys(flags)
    with contextlib.closing(postgres_store(urls[0], keys)) as opened:
        yield opened


def embedded_only(flags: dict[str, Any], instead: str) -> None:
    """Raises InvalidRequestError, which says what to use instead, where the gallery is not in files."""
    if read_settings(**flags).gallery_urls is not None:
        raise InvalidRequestError(f"gallery_url is set, and this is for a gallery in files: {instead}")


def duration(text: str) -> timedelta:
    """`30m`, `12h` or `90d`."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()) or not 0 < int(number) < 10**6:
        raise InvalidRequestError(f"{text!r} is no time span: write 30m, 12h or 90d")
    return timedelta(seconds=int(number) * _UNITS[unit])


def moment(text: str) -> datetime:
    """A time span from now, or a date as in 2027-01-31 or 2027-01-31T12:00:00Z."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) + duration(text)
        except OverflowError:
            raise InvalidRequestError(f"{text!r} is too long") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def progress(what: str) -> Callable[[int, int], None]:
    """A bar on a terminal; otherwise a line now and then, on stderr."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        share = 100 * done / max(total, 1)
        if sys.stderr.isatty():
            filled = int(share / 2.5)
            click.echo(f"\r{what} [{'#' * filled:40}] {share:3.0f} %", err=True, nl=done >= total)
        elif time.monotonic() - last > 5 or done >= total:
            last = time.monotonic()
            click.echo(f"{what}: {share:.0f} %", err=True)

    return show
