"""Figures of the experiment on traits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faststeer.experiments.estimates import Estimate
from faststeer.experiments.result import Figure
from faststeer.experiments.settings import ADD, SUBTRACT, UNSTEERED
from faststeer.experiments.traits.equal_tax import estimate_of, mean_of
from faststeer.experiments.traits.results import COMBINED, SIMULTANEOUS, Results
from faststeer.experiments.traits.tables import growth_kept, judged

EVEN = 0.5  # both sets of continuations are equally likely


def alone_bars(results: Results) -> Figure:
    """Plot each trait with its own vector subtracted and added."""
    series = {
        "vector subtracted": [
            results.probability(name, results.alone(name, SUBTRACT)) for name in results.names
        ],
        "unsteered": [results.probability(name, UNSTEERED) for name in results.names],
        "vector added": [
            results.probability(name, results.alone(name, ADD)) for name in results.names
        ],
    }
    data = {
        "title": "One vector alone steers each trait",
        "y": "matching probability",
        "groups": [f"{own.name}: {own.positive} / {own.negative}" for own in results.traits],
        "series": [{"name": shown, **_values("values", own)} for shown, own in series.items()],
        "line": EVEN,
    }
    caption = (
        "The probability that a held-out prompt is continued in the first of two ways, given that "
        "it is in one of them: with the trait's own vector subtracted, unsteered, and added. "
        "Lines are 95 % intervals over prompts."
    )
    return Figure("alone", "bars", caption, data)


def random_bars(results: Results) -> Figure:
    """Plot how far each vector moves its trait, beside random directions of its norm."""
    own = [estimate_of(results.alone_gain(name)) for name in results.names]
    random = []
    for name in results.names:
        moved = results.random_gains(name)
        random.append(Estimate(sum(moved) / len(moved), min(moved), max(moved)))
    data = {
        "title": "The direction does it, not the dose",
        "y": "added − subtracted",
        "groups": results.names,
        "series": [
            {"name": "the trait's vector", **_values("values", own)},
            {"name": "random directions", **_values("values", random)},
        ],
    }
    count = results.protocol.randoms
    caption = (
        "How far a vector moves its own trait between subtracting and adding it, and how far "
        f"{count} random directions of the same norm do, of either sign: their mean, and from the "
        "least to the most."
    )
    return Figure("random", "bars", caption, data)


def tax_curves(results: Results) -> Figure:
    """Plot the mean effect on all traits over the tax, for each way."""
    names = [COMBINED, f"{COMBINED}, orthogonal", SIMULTANEOUS, f"{SIMULTANEOUS}, orthogonal"]
    names.append(f"{SIMULTANEOUS}, one coefficient")
    series: list[dict[str, Any]] = []
    for name in names:
        way = results.ways[name]
        taxes = results.compared.taxes(way)[:, 0].tolist()
        every = list(results.compared.effects(way).values())
        found = [estimate_of(own) for own in mean_of(every)]
        zero = Estimate(0.0, 0.0, 0.0)
        series.append({"name": name, "x": [0.0, *taxes], **_values("y", [zero, *found])})
    data = {
        "title": f"{len(results.names)} traits at once: what they cost on other text",
        "x": "alignment tax: share of correct next tokens lost",
        "mark": results.budget,
        "panels": [{"y": "mean effect, added − subtracted", "series": series}],
    }
    caption = (
        "The mean effect on all traits over what it costs on general text, from weak to strong "
        "(markers). The higher of two curves does more at the same cost; they are compared at the "
        "dotted line. Vertical lines are 95 % intervals of the effect."
    )
    return Figure("tax", "curves", caption, data)


def growth_curves(results: Results) -> Figure:
    """Plot what is kept of the effect alone over the number of traits."""
    sizes = list(results.growth)
    kept = [growth_kept(results, size) for size in sizes]
    series = [
        {"name": name, "x": sizes, **_values("y", [estimate_of(own[number]) for own in kept])}
        for number, name in enumerate((COMBINED, SIMULTANEOUS))
    ]
    data = {
        "title": f"Effect kept per trait as traits are added, at a tax of {results.budget:.0%}",
        "x": "traits that steer at once",
        "panels": [{"y": "share of the effect alone", "series": series, "line": 1.0}],
    }
    caption = (
        "How much of its effect alone a trait keeps, on the mean, when so many traits steer at "
        f"once and may cost {results.budget:.0%} of the correct next tokens on general text. "
        "Vertical lines are 95 % intervals over prompts and texts."
    )
    return Figure("growth", "curves", caption, data)


def interactions_matrix(results: Results) -> Figure:
    """Plot the effect of each vector alone on every trait."""
    values = [
        [float(results.effect(vector, trait)[0]) for trait in results.names]
        for vector in results.names
    ]
    data = {
        "title": "Effect of each vector alone on every trait",
        "rows": results.names,
        "columns": results.names,
        "values": values,
        "label": "added − subtracted",
        "reach": 1.0,
        "x": "trait that is measured",
        "y": "vector that steers",
    }
    caption = (
        "How far the vector of the row, alone at its best layer, moves the trait of the column "
        "between subtracting and adding it. Off the diagonal are side effects."
    )
    return Figure("interactions", "matrix", caption, data)


def generated_bars(results: Results) -> Figure:
    """Plot how the judge reads generated texts, alone and several at once."""
    shown = results.shown
    count = len(results.traits)
    kinds = {
        "vector subtracted": [f"{own.name}: {own.negative}" for own in results.traits],
        "unsteered": ["unsteered"] * count,
        "vector added": [f"{own.name}: {own.positive}" for own in results.traits],
        f"all {count}, combined": [f"{COMBINED}, added"] * count,
        f"all {count}, simultaneous": [f"{SIMULTANEOUS}, added"] * count,
    }
    series = []
    for kind, settings in kinds.items():
        found = [
            judged(results, shown[setting], name)
            for setting, name in zip(settings, results.names, strict=True)
        ]
        values = [None if own is None else own.value for own in found]
        low = [own.low if own else 0.0 for own in found]
        high = [own.high if own else 0.0 for own in found]
        series.append({"name": kind, "values": values, "low": low, "high": high})
    data = {
        "title": "What generated texts show",
        "y": "probability by the judge",
        "groups": results.names,
        "series": series,
        "line": EVEN,
    }
    caption = (
        "How likely continuations show each trait, as a classifier reads them that was trained on "
        "other sentences: with the trait's vector subtracted, unsteered, with it added, and with "
        f"all {count} vectors added at the same tax. Lines are 95 % intervals over texts."
    )
    return Figure("generated", "bars", caption, data)


def _values(key: str, found: Sequence[Estimate]) -> dict[str, list[float]]:
    ends = {"low": [own.low for own in found], "high": [own.high for own in found]}
    return {key: [own.value for own in found], **ends}
