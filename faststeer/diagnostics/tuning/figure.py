"""The picture of a front: effect over damage, beside other layers and random directions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from faststeer.diagnostics.tuning.result import CHOSEN, FRONT, OTHER, RANDOM, Trial, Tuned
from faststeer.utils.files import write_whole
from faststeer.utils.plot_labels import note_points, settle
from faststeer.utils.plot_style import (
    BLUE,
    GREY,
    VERMILLION,
    figure_style,
    new_figure,
    readable,
    require_matplotlib,
)

_NOTE = (
    "blue: the chosen setting (ring) times factors; orange: the next best layers; "
    "grey: random directions of the same norm. Bars: 95 % intervals over items"
)


def draw(tuned: Tuned, path: str | PathLike[str]) -> None:
    """Write the picture; see `Tuned.plot`."""
    require_matplotlib()
    names = list(tuned.chosen.effects)
    with figure_style():
        title = f"{tuned.chosen.setting()}: effect over damage"
        figure = new_figure(title, 3.2 * len(names), _NOTE)
        panels = figure.subplots(len(names), squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            _draw_one(axes, tuned, name)
        settle(figure)
        for axes, name in zip(panels, names, strict=True):
            note_points(axes, _notes(tuned, name))
        save(figure, path)


def save(figure: Any, path: str | PathLike[str]) -> None:
    """Write a figure in the format of the path's suffix, PNG without one."""
    content = io.BytesIO()
    target = Path(path)
    figure.savefig(content, format=target.suffix.removeprefix(".") or "png", dpi=140)
    write_whole(target, content.getvalue())


def _draw_one(axes: Any, tuned: Tuned, name: str) -> None:
    """Draw the front of one vector."""
    axes.axhline(0, color=GREY, linewidth=0.8)
    front = tuned.of_kind(FRONT, CHOSEN)
    axes.plot(_kl(front), _means(front, name), color=BLUE, linewidth=1)
    _points(axes, tuned.of_kind(RANDOM), name, GREY, "o", bars=False)
    _points(axes, tuned.of_kind(OTHER), name, VERMILLION, "D")
    _points(axes, front, name, BLUE, "o")
    own = tuned.chosen
    ring = {"color": "white", "markeredgecolor": BLUE, "markeredgewidth": 2, "zorder": 5}
    axes.plot(own.damage.kl, own.effects[name].mean, "o", markersize=8, **ring)
    axes.set_xlabel("damage: KL of next tokens on neutral text (nats per token)")
    what = f"effect on {tuned.items[name]}" if len(tuned.units) == 1 else name
    axes.set_ylabel(f"{what} ({tuned.units[name]})", parse_math=False)
    axes.set_xlim(left=0)
    axes.margins(y=0.12)


def _points(
    axes: Any, trials: Sequence[Trial], name: str, colour: str, marker: str, bars: bool = True
) -> None:
    means = _means(trials, name)
    intervals = [trial.effects[name].interval for trial in trials]
    lower = [mean - low for mean, (low, _) in zip(means, intervals, strict=True)]
    upper = [high - mean for mean, (_, high) in zip(means, intervals, strict=True)]
    style = {"fmt": marker, "color": colour, "elinewidth": 1, "markersize": 4 if bars else 3}
    axes.errorbar(_kl(trials), means, yerr=(lower, upper) if bars else None, **style)


def _notes(tuned: Tuned, name: str) -> list[tuple[float, float, str, str]]:
    """Return what is written at points: factors, and the layers of others."""
    found = []
    for trial in tuned.of_kind(CHOSEN, FRONT, OTHER):
        text = f"×{trial.factor:g}"
        if trial.kind == OTHER:
            text = "layer " + ", ".join(str(layer) for layer in trial.steering[name])
        colour = readable(VERMILLION if trial.kind == OTHER else BLUE)
        found.append((trial.damage.kl, trial.effects[name].mean, text, colour))
    return found


def _kl(trials: Sequence[Trial]) -> list[float]:
    return [trial.damage.kl for trial in trials]


def _means(trials: Sequence[Trial], name: str) -> list[float]:
    return [trial.effects[name].mean for trial in trials]
