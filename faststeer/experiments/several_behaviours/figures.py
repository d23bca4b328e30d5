"""The figures of the paper's section 4, and one of the effect of one vector on the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from faststeer.evaluate.records import key_of
from faststeer.experiments.estimates import Estimate, accuracy
from faststeer.experiments.result import Figure
from faststeer.experiments.settings import ADD
from faststeer.experiments.several_behaviours.protocol import SHOWN
from faststeer.experiments.several_behaviours.results import Results, Way
from faststeer.experiments.several_behaviours.scores import MEASURES, PROBABILITY, SCORE, estimate

CHANCE = 0.5  # of two options
_BINS = 61
_FULL = 0.1  # the smallest change that is drawn in the strongest colour


def alone_bars(results: Results, layer: int, measure: str) -> Figure:
    """Plot each behaviour with its own vector subtracted and added."""
    series = {
        shown: [estimate([record], measure) for record in results.records(way)]
        for shown, way in results.alone_at(layer).items()
    }
    caption = (
        f"Each behaviour's {MEASURES[measure]}, unsteered and with its own vector subtracted and "
        f"added at layer {layer}. Steering works where the third bar is longer than the second. "
        "Lines are 95 % intervals; the dotted line is chance."
    )
    name, title = f"single_steering_layer_{layer}", f"One vector at layer {layer}"
    return _bars(name, measure, title, caption, results.shown, series)


def combined_bars(results: Results, layer: int, measure: str) -> Figure:
    """Plot each behaviour under every combined vector, beside its own alone."""
    ways: dict[str, Way] = {**results.alone_at(layer), **results.combined_at(layer)}
    records = [results.records(way) for way in ways.values()]
    series = {
        shown: [estimate([own[number]], measure) for own in records]
        for number, shown in enumerate(results.shown)
    }
    caption = (
        f"Each behaviour's {MEASURES[measure]} at layer {layer}: unsteered, with its own vector "
        "alone, and with one vector combined from all. Combining works where the bars of an added "
        "combined vector are as long as those of the vectors alone. Lines are 95 % intervals; the "
        "dotted line is chance."
    )
    name, title = f"all_results_layer_{layer}", f"One combined vector at layer {layer}"
    return _bars(name, measure, title, caption, list(ways), series)


def global_curves(results: Results) -> Figure:
    """Plot scores, probabilities and accuracy on text over the global coefficient."""
    coefficients = sorted(results.protocol.at_once)
    settings = [results.globally(c) for c in coefficients]
    panels = []
    for measure, shown in MEASURES.items():
        series = []
        for name in results.names:
            found = [estimate([results.record(name, own)], measure) for own in settings]
            label = f"{SHOWN[name]} (layer {results.layers.at_once[name]})"
            series.append({"name": label, "x": coefficients, **_values("y", found)})
        panels.append({"y": shown, "series": series})
    found = [accuracy(results.text[key_of(own)]) for own in settings]
    text = {"name": "general text", "x": coefficients, **_values("y", found)}
    panels.append({"y": "top-1 accuracy", "series": [text]})
    caption = (
        "All vectors at once, each at its layer, over their common coefficient: scores of the "
        "behaviours at the top, probabilities in the middle, accuracy on general text, whose fall "
        "is the tax, at the bottom. Bands are 95 % intervals, grey lines the other behaviours. "
        "Steering works where the curves rise to the right of 0 while the lowest stays level."
    )
    title = "All vectors at once, each at its layer"
    data = {"title": title, "x": "global coefficient", "panels": panels}
    return Figure("simultaneous_steering", "curves", caption, data)


def interactions_matrix(results: Results, measure: str) -> Figure:
    """Plot how far adding each vector moves each behaviour."""
    found = results.effects(ADD, measure)
    values = [[moved.value for moved in row] for row in found]
    data = {
        "title": f"Effect of adding a vector on each behaviour, layer {results.layers.latest}",
        "rows": results.shown,
        "columns": results.shown,
        "values": values,
        "label": f"change of the {MEASURES[measure]}",
        "reach": max(_FULL, *(abs(value) for row in values for value in row)),
        "x": "behaviour that is measured",
        "y": "vector that is added",
    }
    caption = (
        "How far adding the vector of the row moves the behaviour of the column. Orange is up, "
        "blue is down; off the diagonal are side effects."
    )
    name = "interactions" if measure == PROBABILITY else f"interactions_{measure}"
    return Figure(name, "matrix", caption, data)


def component_histograms(results: Results) -> Figure:
    """Plot histograms of the vectors' components, one panel per layer."""
    panels: list[dict[str, Any]] = []
    for layer in results.layers.tested:
        own = {name: results.vectors[name].directions[layer] for name in results.names}
        reach = max(float(direction.abs().max()) for direction in own.values())
        edges = torch.linspace(-reach, reach, _BINS + 1, dtype=torch.float64)
        series = [
            {
                "name": SHOWN[name],
                "counts": torch.histogram(direction.double(), edges).hist.int().tolist(),
            }
            for name, direction in own.items()
        ]
        panels.append({"title": f"layer {layer}", "edges": edges.tolist(), "series": series})
    caption = (
        "Histograms of the components of the behaviours' vectors, a row per behaviour and a column "
        "per layer; counts are on a logarithmic scale."
    )
    data = {"title": "Components of the vectors", "x": "component", "panels": panels}
    return Figure("multi_steering_activation_distributions", "histograms", caption, data)


def _bars(
    name: str,
    measure: str,
    title: str,
    caption: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Estimate]],
) -> Figure:
    """Return series of one value per group, with intervals; the dotted line is chance."""
    data = {
        "title": f"{title}: {MEASURES[measure]}",
        "y": MEASURES[measure],
        "groups": list(groups),
        "series": [{"name": own, **_values("values", found)} for own, found in series.items()],
        "line": CHANCE,
    }
    return Figure(name if measure == SCORE else f"{name}_probability", "bars", caption, data)


def _values(key: str, found: Sequence[Estimate]) -> dict[str, list[float]]:
    ends = {"low": [own.low for own in found], "high": [own.high for own in found]}
    return {key: [own.value for own in found], **ends}
