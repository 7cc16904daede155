"""Makes the pictures that are asked for, and keeps the numbers behind them beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.mnist import read_mnist
from training.figures import angles, features, margin, psi, results
from training.figures.runs import BATCH, HURRIED, SIDE, VARIANTS, Plan, Run, run_of

Say = Callable[[str], None]
NAMES = ("psi", "features", "angles", "margin", "m_min")
# Which runs a picture is made of.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "features": tuple(variant.name for variant in (*VARIANTS, HURRIED)),
    "angles": angles.COMPARED,
    "m_min": tuple(f"a-softmax-{m}" for m in angles.MARGIN_VALUES),
}


@dataclass(frozen=True, slots=True)
class Request:
    """Which pictures to make, of what plan, where to; `cache` keeps the runs."""

    names: Sequence[str]
    plan: Plan
    out: Path
    cache: Path
    threads: int = 1


def make(request: Request, say: Say) -> None:
    """Make the pictures in order, training what is not in the cache yet; each is written when it is done.

    Raises:
        FaceError: data, cache or folder that cannot be used; training that failed for good.
    """
    for name in (name for name in NAMES if name in request.names):
        path, numbers = _MAKERS[name](request, _runs(request, name, say))
        _keep(request, name, numbers)
        say(f"{path}: done")


def _runs(request: Request, name: str, say: Say) -> dict[str, Run]:
    """The runs that a picture is made of, out of the cache or trained now."""
    wanted = [variant for variant in (*VARIANTS, HURRIED) if variant.name in _NEEDS.get(name, ())]
    if not wanted:
        return {}
    test = read_mnist(request.plan.data, "test")
    found = {}
    for number, variant in enumerate(wanted, 1):
        say(f"{name}, run {number} of {len(wanted)}: {variant.title}")
        found[variant.name] = run_of(variant, request.plan, test, request.cache, request.threads)
    return found


def _keep(request: Request, name: str, numbers: Any) -> None:
    """Add to what the folder has of other pictures."""
    before, plan = results.read(request.out), request.plan
    settings = before.get("settings", {})
    if name in _NEEDS:
        settings[name] = {"steps": plan.steps, "batch": BATCH, "side": SIDE, "seed": plan.seed}
    new = {name: numbers, "settings": settings, "versions": results.versions()}
    results.write(request.out, {**before, **new})


def _psi(request: Request, _: Mapping[str, Run]) -> tuple[Path, Any]:
    curves = [psi.curve(m) for m in psi.MARGIN_VALUES]
    numbers = {
        "slope_at_0": {str(each.margin): float(each.slope[0]) for each in curves},
        "slope_at_90_degrees": {str(each.margin): float(abs(each.slope[len(each.slope) // 2])) for each in curves},
    }
    return psi.draw(request.out), numbers


def _features(request: Request, runs: Mapping[str, Run]) -> tuple[Path, Any]:
    numbers = {
        name: {
            "accuracy": run.accuracy,
            "rollbacks": run.rollbacks,
            "lost": features.lost(run, unit=name.startswith("a-softmax")),
        }
        for name, run in runs.items()
    }
    return features.draw(runs, request.out), numbers


def _angles(request: Request, runs: Mapping[str, Run]) -> tuple[Path, Any]:
    numbers: dict[str, Any] = {}
    for name in angles.COMPARED:
        found = angles.pairs(runs[name].features[:: angles.EVERY], runs[name].labels[:: angles.EVERY])
        numbers[name] = {
            "within_median": float(np.median(found.within)),
            "between_median": float(np.median(found.between)),
            "confused": found.confused,
            "order": found.order,
            "digits": len(runs[name].labels[:: angles.EVERY]),
            "pairs_within": len(found.within),
            "pairs_between": len(found.between),
        }
    return angles.draw_histograms(runs, request.out), numbers


def _margin(request: Request, _: Mapping[str, Run]) -> tuple[Path, Any]:
    found = margin.measure()
    return margin.draw(found, request.out), [{**asdict(each), "predicted": each.predicted} for each in found]


def _m_min(request: Request, runs: Mapping[str, Run]) -> tuple[Path, Any]:
    chosen = {m: runs[f"a-softmax-{m}"] for m in angles.MARGIN_VALUES}
    found = {m: angles.regions(_weight(run), m) for m, run in chosen.items()}
    numbers = {}
    for m, run in chosen.items():
        within, between = angles.spread(run)
        numbers[str(m)] = {**asdict(found[m]), "within_95": within, "between_5": between}
    return angles.draw_regions(found, chosen, request.out), numbers


def _weight(run: Run) -> Any:
    if run.weight is None:
        raise ValueError("this run has no classifier")
    return run.weight


_MAKERS: Mapping[str, Callable[[Request, Mapping[str, Run]], tuple[Path, Any]]] = {
    "psi": _psi,
    "features": _features,
    "angles": _angles,
    "margin": _margin,
    "m_min": _m_min,
}
