"""Photos in folders, and how far the work on them is."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
# Called with how many are done, and of how many; True: a bar on a terminal (extra `progress`), lines elsewhere.
Progress = bool | Callable[[int, int], None]


def photos(folder: Path) -> list[Path]:
    """Image files of a folder and those below it, by name; hidden ones are left out.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def people(folder: Path) -> list[tuple[str, Path]]:
    """Name and photo of each person in a folder that has one for each: PERSON/PHOTO.jpg."""
    below = ((path.relative_to(folder).parts, path) for path in photos(folder))
    return [(parts[0], path) for parts, path in below if len(parts) > 1]


class Shown:
    """Tells how far the work is, while the context is open."""

    def __init__(self, what: str, total: int, progress: Progress) -> None:
        self._what, self._total, self._done = what, total, 0
        self._bar: Any = None
        self._tell: Callable[[int, int], None] | None = None if isinstance(progress, bool) else progress
        if progress is True:
            self._bar, self._tell = _bar(what, total)

    def __enter__(self) -> "Shown":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        if self._tell is not None:
            self._tell(self._done, self._total)


def counted(items: Iterable[T], shown: Shown) -> Iterator[T]:
    """The same items, each counted."""
    for item in items:
        shown.advance()
        yield item


def _bar(what: str, total: int) -> tuple[Any, Callable[[int, int], None]]:
    if not sys.stderr.isatty():
        return None, _lines(what)
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None, _lines(what)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True))
    task = bar.add_task(what, total=total)
    return bar, lambda done, _: bar.update(task, completed=done)


def _lines(what: str) -> Callable[[int, int], None]:
    """A line each tenth of the way."""
    last = 0

    def tell(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // max(total, 1)
        if tenth > last:
            last = tenth
            sys.stderr.write(f"{what}: {done} of {total}\n")

    return tell
