"""How long work tells how far it is."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click


@contextlib.contextmanager
def counter(label: str) -> Iterator[Callable[[int], None]]:
    """A counter on a terminal, a plain line every ten seconds otherwise; for work whose size is not known before."""
    done, began, shown = 0, time.monotonic(), time.monotonic()
    on_terminal = sys.stderr.isatty()

    def step(count: int) -> None:
        nonlocal done, shown
        done += count
        if time.monotonic() - shown > (0.2 if on_terminal else 10):
            shown = time.monotonic()
            text = f"{label}: {done} photos, {done / (shown - began):.0f}/s"
            click.echo(f"\r{text}" if on_terminal else text, err=True, nl=not on_terminal)

    yield step
    click.echo(f"{label}: {done} photos in {time.monotonic() - began:.0f} s", err=True)
