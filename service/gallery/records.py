"""Enrolled people in SQLite: the source of truth. When a call returns, what it did is on the disk."""

from service.gallery.contracts import Contracts
from service.gallery.enrolling import Enrolling
from service.gallery.erasing import Erasing
from service.gallery.index_source import IndexSource
from service.gallery.reading import Reading


class Records(Reading, IndexSource, Enrolling, Erasing, Contracts):
    """Collections, people and faces. Calls may come from several threads; they take turns."""
