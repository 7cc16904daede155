"""A measurement as lines for a terminal."""

from training.evaluation.groups import GroupRow
from training.evaluation.identification import OpenSetPoint
from training.evaluation.measure import Measurement, Verification
from training.evaluation.roc import RatePoint


def folds_line(found: Verification) -> str:
    """Accuracy in folds, with its standard error and what it was counted on."""
    result = found.result
    shared = "" if found.disjoint else ", people may be in several folds"
    return (
        f"accuracy in {len(result.folds)} folds: {result.mean:.4f} +- {result.standard_error:.4f} "
        f"({found.genuine_pairs:,} genuine, {found.impostor_pairs:,} impostor pairs{shared})"
    )


def lines(found: Measurement) -> list[str]:
    """Everything but the curves."""
    shown = [folds_line(found.verification)] if found.verification is not None else []
    shown.append(f"EER {found.equal_error_rate:.4f}, area under the ROC {found.area_under_roc:.6f}")
    shown += [_rate(point) for point in found.rates]
    if found.identification is not None:
        shown.append(f"rank 1 among {found.identification.people} people: {found.identification.cmc[0]:.4f}")
        shown += [_open_set(point) for point in found.identification.open_set]
    if found.groups is not None:
        shown.append(f"groups at the threshold {found.groups.threshold:.4f} (FMR {found.groups.fmr:g} over all)")
        shown += [_group(row) for row in found.groups.rows]
    return [*shown, *found.notes]


def _rate(point: RatePoint) -> str:
    known = f"TAR {point.tar:.4f} ({point.tar_low:.4f} .. {point.tar_high:.4f})" if point.tar is not None else ""
    return f"FMR {point.fmr:.0e}  {'  '.join(part for part in (known, point.note) if part)}"


def _open_set(point: OpenSetPoint) -> str:
    if point.fnir is None:
        return f"FPIR {point.fpir:.0e}  {point.note}"
    return f"FPIR {point.fpir:.0e}  FNIR {point.fnir:.4f} ({point.fnir_low:.4f} .. {point.fnir_high:.4f})"


def _group(row: GroupRow) -> str:
    # A name out of the data must not move the cursor of a terminal.
    name = "".join(letter if letter.isprintable() else "?" for letter in f"{row.attribute} {row.value or '(none)'}")
    fmr = "no impostor pairs" if row.fmr is None else f"FMR {row.fmr:.2e} ({row.fmr_low:.2e} .. {row.fmr_high:.2e})"
    fnmr = (
        "no genuine pairs" if row.fnmr is None else f"FNMR {row.fnmr:.4f} ({row.fnmr_low:.4f} .. {row.fnmr_high:.4f})"
    )
    return f"  {name}: {fmr}, {fnmr}"
