"""The vectors: norms, angles, and how their components are spread."""

from __future__ import annotations

from typing import Any

import torch

from faststeer.experiments.outcome import Cell, Figure, Section, Table
from faststeer.experiments.several.protocol import SHOWN
from faststeer.experiments.several.published import COSINE, MODEL, OPPOSED
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.words import listed

_BINS = 61


def vectors(results: Results) -> Section:
    """Tables at both layers, and the histograms."""
    rows: list[list[Cell]] = []
    for own in results.asked:
        option, share = own.first_option
        norms = results.vectors[own.name].norms()
        rows.append(
            [
                SHOWN[own.name],
                len(own.train),
                f"{option!r} for {share:.0%}",
                *(norms[layer] for layer in results.layers.tested),
                results.layers.at_once[own.name],
                norms[results.layers.at_once[own.name]],
            ]
        )
    columns = ["behaviour", "pairs", "matching answer is"]
    columns += [f"norm at layer {layer}" for layer in results.layers.tested]
    columns += ["its layer among all", "norm there"]
    tables = [Table("Mean differences of the pairs' last tokens", columns, rows)]
    for layer in results.layers.tested:
        cosines = _cosines(results, layer)
        tables.append(
            Table(
                f"Cosines between the vectors at layer {layer}",
                ["", *results.shown],
                [[name, *row] for name, row in zip(results.shown, cosines, strict=True)],
                2,
            )
        )
    text = (
        "Where an option matches in more than half of a set's pairs, its vector also points at "
        "that option's token, whatever it is about; and sets that are asked in the same options "
        "share that direction."
    )
    return Section("The vectors", text, tables, [_histograms(results)])


def opposed(results: Results) -> str | None:
    """Whether agreeableness and anti-immigration point against each other, as in the paper."""
    if not set(OPPOSED) <= set(results.names):
        return None
    told, against = [], []
    for layer, papers in results.layers.tested.items():
        first, second = (results.vectors[name].directions[layer] for name in OPPOSED)
        cosine = float(torch.cosine_similarity(first, second, dim=0))
        against.append(cosine < 0)
        beside = f" ({MODEL} {COSINE[papers]:.2f})" if papers in COSINE else ""
        told.append(f"{cosine:.2f} at layer {layer}{beside}")
    verdict = "point against each other" if all(against) else "do not point against each other"
    if any(against) and not all(against):
        verdict = "point against each other at one layer only"
    return (
        f"{SHOWN[OPPOSED[0]].capitalize()} and {SHOWN[OPPOSED[1]]} {verdict}: their cosine is "
        f"{listed(told)}."
    )


def _cosines(results: Results, layer: int) -> list[list[float]]:
    own = torch.stack([results.vectors[name].directions[layer] for name in results.names])
    unit = torch.nn.functional.normalize(own.double(), dim=1)
    found: list[list[float]] = (unit @ unit.T).tolist()
    return found


def _histograms(results: Results) -> Figure:
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
        "How the components of the behaviours' vectors are spread: a few are many times as large "
        "as the rest. A line a behaviour, a panel a layer; counts are on a logarithmic scale."
    )
    data = {"title": "Components of the vectors", "x": "component", "panels": panels}
    return Figure("multi_steering_activation_distributions", "histograms", caption, data)
