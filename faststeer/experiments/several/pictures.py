"""Estimates as what `charts` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faststeer.experiments.outcome import Figure
from faststeer.experiments.several.scored import SCORE, Estimate
from faststeer.experiments.several.words import AXES

CHANCE = 0.5  # of two options


def bars(
    name: str,
    measure: str,
    title: str,
    caption: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Estimate]],
) -> Figure:
    """Series of a value a group, with intervals; the dotted line is chance."""
    data = {
        "title": f"{title}: {AXES[measure]}",
        "y": AXES[measure],
        "groups": list(groups),
        "series": [
            {"name": shown, "values": [own.value for own in found], **_intervals(found)}
            for shown, found in series.items()
        ],
        "line": CHANCE,
    }
    return Figure(name if measure == SCORE else f"{name}_probability", "bars", caption, data)


def curve(name: str, over: Sequence[float], found: Sequence[Estimate]) -> dict[str, Any]:
    """A series of curves: values over something, with a band."""
    return {"name": name, "x": over, "y": [own.value for own in found], **_intervals(found)}


def _intervals(found: Sequence[Estimate]) -> dict[str, list[float]]:
    return {"low": [own.low for own in found], "high": [own.high for own in found]}
