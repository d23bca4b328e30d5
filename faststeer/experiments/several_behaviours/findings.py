"""What the experiment found, in words."""

from __future__ import annotations

from faststeer.experiments.settings import ADD, SUBTRACT, UNSTEERED
from faststeer.experiments.several_behaviours.results import Results
from faststeer.experiments.several_behaviours.scores import PROBABILITY, change


def findings(results: Results) -> str:
    """Return a paragraph per question: one vector alone, one combined vector, all at once."""
    alone = [_alone(results, layer) for layer in results.layers.tested]
    combined = [_combined(results, layer) for layer in results.layers.tested]
    return "\n\n".join((" ".join(alone), " ".join(combined), _at_once(results)))


def _alone(results: Results, layer: int) -> str:
    ways = results.alone_at(layer)
    moved = {
        shown: change([after], [before], PROBABILITY)
        for shown, after, before in zip(
            results.shown, results.records(ways[ADD]), results.records(ways[SUBTRACT]), strict=True
        )
    }
    clear = [shown for shown, own in moved.items() if own.low > 0]
    named = f" ({', '.join(clear)})" if clear else ""
    return (
        f"One vector at layer {layer}, added rather than subtracted, raises the matching "
        f"probability of {len(clear)} of {len(moved)} behaviours{named} by more than its 95 % "
        "interval."
    )


def _combined(results: Results, layer: int) -> str:
    before = results.records(results.every(UNSTEERED))
    moved = {
        shown: change(results.records(way), before, PROBABILITY)
        for shown, way in results.combined_at(layer).items()
    }
    best = max(moved, key=lambda shown: moved[shown].value)
    return (
        f"Of the combined vectors at layer {layer}, {best} raises the mean matching probability "
        f"most: {moved[best].signed}."
    )


def _at_once(results: Results) -> str:
    setting = results.globally(results.whole)
    before = results.records(results.every(UNSTEERED))
    moved = change(results.records(results.every(setting)), before, PROBABILITY)
    return (
        f"All vectors at once, each at its layer, with the coefficient {results.whole:+g}, change "
        f"it by {moved.signed} at a tax of {results.tax(setting):.1%} of the correct next tokens "
        "on general text."
    )
