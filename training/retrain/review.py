"""review.csv: every finding as a row that a person may edit and give back; their decision wins."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.retrain.cleaning import DROP, KEEP, Finding

COLUMNS = ("photo", "person", "finding", "score", "other_photo", "other_person", "decision")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person decided: of one photo, or of a whole person where `photo` is empty."""

    photo: str
    person: str
    decision: str


def to_csv(findings: Sequence[Finding], data: AlignedSet) -> str:
    """The file to edit."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in findings:
        photo = "" if each.row is None else data.photos[each.row]
        other = "" if each.other_row is None else data.photos[each.other_row]
        writer.writerow((photo, each.person, each.kind, f"{each.score:.4f}", other, each.other_person, each.decision))
    return buffer.getvalue()


def read_review(path: Path, data: AlignedSet) -> list[Verdict]:
    """Decisions out of an edited file; only photo, person and decision are looked at, and rows may be added.

    Raises:
        DataError: it cannot be read, or a row names a photo, person or decision that there is not, with its line.
    """
    known = {(photo, data.people[label]) for photo, label in zip(data.photos, data.labels.tolist(), strict=True)}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"photo", "person", "decision"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{path}: there is no column {sorted(missing)[0]}")
            return [_verdict(path, reader.line_num, row, known, set(data.people)) for row in reader]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a list in UTF-8: {error}") from error


def _verdict(
    path: Path, line: int, row: dict[str, str | None], known: set[tuple[str, str]], people: set[str]
) -> Verdict:
    photo, person, decision = (row[name] or "" for name in ("photo", "person", "decision"))
    if (photo, person) not in known if photo else person not in people:
        raise DataError(f"{path}, line {line}: there is no {f'photo {photo!r} of ' if photo else ''}{person!r}")
    verb, _, whom = decision.partition(":")
    asked = "move" if photo else "merge"
    if decision not in (KEEP, DROP) and (verb != asked or not whom):
        raise DataError(f"{path}, line {line}: the decision must be keep, drop or {asked}:PERSON, got {decision!r}")
    if whom and whom not in people:  # a slip of the pen would make a new person
        raise DataError(f"{path}, line {line}: there is no {whom!r} to {asked} {'to' if photo else 'into'}")
    return Verdict(photo, person, decision)


def apply(findings: Sequence[Finding], verdicts: Sequence[Verdict], data: AlignedSet) -> list[str | None]:
    """The person on each photo after all decisions, None where it is dropped; (N,).

    A verdict replaces what was found of that photo or person; the rest stays as it was found.
    """
    photos = {(data.photos[each.row], each.person): each.decision for each in findings if each.row is not None}
    whole = {each.person: each.decision for each in findings if each.row is None}
    for verdict in verdicts:
        if verdict.photo:
            photos[verdict.photo, verdict.person] = verdict.decision
        else:
            whole[verdict.person] = verdict.decision
    names = (
        _photo(photos.get((photo, data.people[label]), KEEP), data.people[label])
        for photo, label in zip(data.photos, data.labels.tolist(), strict=True)
    )
    return [None if name is None else _person(whole, name) for name in names]


def _photo(decision: str, person: str) -> str | None:
    if decision == DROP:
        return None
    return decision.partition(":")[2] if decision.startswith("move:") else person


def _person(whole: dict[str, str], person: str) -> str | None:
    """Follow merges; who is merged into each other in a ring stays with the first of them."""
    seen = [person]
    while (decision := whole.get(seen[-1], KEEP)) != KEEP:
        if decision == DROP:
            return None
        into = decision.partition(":")[2]
        if into in seen:
            return min(seen[seen.index(into) :])
        seen.append(into)
    return seen[-1]
