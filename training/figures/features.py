"""The picture of features in the plane: what each loss makes of the ten digits."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from training.figures.runs import VARIANTS, Run
from training.figures.style import DIGITS, canvas, save, styled

# Every second digit: more would hide each other. Not the first ones, as the file may be in order of digits.
_EVERY = 2


def lost(run: Run, unit: bool) -> list[int]:
    """Digits of which fewer than one in ten is right, by the largest logit; `unit` where rows have length 1."""
    if run.weight is None:
        return []
    rows = run.weight / np.linalg.norm(run.weight, axis=1, keepdims=True) if unit else run.weight
    right = (run.features @ rows.T).argmax(axis=1) == run.labels
    return [digit for digit in range(len(rows)) if right[run.labels == digit].mean() < 0.1]


@styled
def draw(runs: Mapping[str, Run], folder: Path) -> Path:
    """features.png: the test digits' two features, one panel a loss; `runs` by name of the variant."""
    shown = [variant for variant in VARIANTS if variant.name in runs]
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = canvas(rows, columns, 2.5 * columns, 2.9 * rows)
    for variant, place in zip(shown, axes, strict=False):
        panel(
            place,
            runs[variant.name],
            f"{variant.title}\n{100 * runs[variant.name].accuracy:.1f} % of test digits right",
        )
    for place in axes[len(shown) :]:
        place.set_axis_off()
    handles = [axes[0].scatter([], [], color=colour, s=20, label=str(digit)) for digit, colour in enumerate(DIGITS)]
    figure.legend(handles=handles, loc="outside lower center", ncols=10, title="digit", handletextpad=0.1)
    return save(figure, folder / "features.png")


def panel(axes: Axes, run: Run, title: str) -> None:
    """Every second digit in its colour, and as lines the directions of the classifier's rows."""
    features, labels = run.features[::_EVERY], run.labels[::_EVERY]
    axes.scatter(features[:, 0], features[:, 1], c=np.array(DIGITS)[labels], s=1.6, linewidths=0)
    reach = 1.05 * float(np.quantile(np.abs(run.features), 0.995))
    if run.weight is not None:
        for row in run.weight / np.linalg.norm(run.weight, axis=1, keepdims=True):
            axes.plot([0, 2 * reach * row[0]], [0, 2 * reach * row[1]], color="#777777", linewidth=0.5, zorder=0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="feature 1", ylabel="feature 2")
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
