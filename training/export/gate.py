"""What a smaller file may lose. One that loses more is not kept."""

from dataclasses import dataclass

from models.preprocess import Vectors
from training.export.errors import VariantRefusedError
from training.export.measure import Labels, scores_of, tar_at, verification_accuracy


@dataclass(frozen=True, slots=True)
class Gate:
    """Largest losses against the float file on the same pairs: of 10-fold accuracy, of TAR, and the least mean cosine.

    TAR is that at FMR 1e-3, or at 1e-2 where the pairs are too few for it.
    """

    accuracy_drop: float
    tar_drop: float
    mean_cosine: float


# docs/export.md says why these.
GATES = {"fp16": Gate(0.001, 0.002, 0.9999), "int8": Gate(0.003, 0.02, 0.97)}


def rates_of(vectors: Vectors, labels: Labels, suffix: str = "") -> dict[str, float]:
    """Accuracy and TAR under the names they have in a manifest.

    Args:
        vectors: unit vectors (N, D).
        labels: the person on each crop, (N,).
        suffix: of the names.

    Raises:
        DataError: too few pairs.
    """
    scores = scores_of(vectors, labels)
    tars = {f"tar_at_fmr_1e-{-_exponent(rate)}{suffix}": tar_at(scores, rate) for rate in scores.rates}
    return {f"accuracy{suffix}": verification_accuracy(scores), **tars}


def _exponent(rate: float) -> int:
    """The exponent of a power of ten."""
    return int(f"{rate:e}".partition("e")[2])


def compare(variant: Vectors, float32: Vectors, labels: Labels) -> dict[str, float]:
    """The metrics of a variant, with those of the float file beside them.

    Args:
        variant, float32: unit vectors (N, D) of the same crops.
        labels: the person on each crop, (N,).

    Raises:
        DataError: too few pairs.
    """
    mean = float((variant * float32).sum(axis=1).mean())
    return {**rates_of(variant, labels), **rates_of(float32, labels, "_float"), "mean_cosine": mean}


def check(metrics: dict[str, float], gate: Gate, name: str) -> None:
    """Let a variant pass.

    Raises:
        VariantRefusedError: it loses too much; every reason is named.
    """
    tar = "tar_at_fmr_1e-3" if "tar_at_fmr_1e-3" in metrics else "tar_at_fmr_1e-2"
    reasons = [
        f"{what} falls from {metrics[key + '_float']:.4f} to {metrics[key]:.4f} (at most {allowed:g} may be lost)"
        for what, key, allowed in (("accuracy", "accuracy", gate.accuracy_drop), (_words(tar), tar, gate.tar_drop))
        if not metrics[key + "_float"] - metrics[key] <= allowed
    ]
    if not metrics["mean_cosine"] >= gate.mean_cosine:
        reasons.append(f"mean cosine to float is {metrics['mean_cosine']:.4f} (at least {gate.mean_cosine:g})")
    if reasons:
        raise VariantRefusedError(f"{name} was not kept: {'; '.join(reasons)}")


def _words(key: str) -> str:
    return f"TAR at FMR {key.rpartition('_')[2]}"
