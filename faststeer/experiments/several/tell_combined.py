"""One vector for all behaviours: the eight ways to combine theirs."""

from __future__ import annotations

from faststeer.evaluate.records import Setting
from faststeer.experiments.outcome import Cell, Figure, Section, Table
from faststeer.experiments.several.pictures import bars
from faststeer.experiments.several.published import COMBINED, MODEL
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.scored import (
    MEASURES,
    PROBABILITY,
    SCORE,
    Estimate,
    change,
    estimate,
    flags,
    is_sound,
)
from faststeer.experiments.several.settings import (
    ADD,
    DIRECTIONS,
    UNSTEERED,
    VARIANTS,
    Variant,
    combined,
)
from faststeer.experiments.several.words import AXES

_HALF = 0.5  # of what the vectors alone do


def together(results: Results) -> Section:
    """Tables and pictures of the eight variants, beside each vector alone."""
    tables = [_table(results, layer, papers) for layer, papers in results.layers.tested.items()]
    figures = [
        _bars(results, layer, measure) for layer in results.layers.tested for measure in MEASURES
    ]
    text = (
        "One vector at one layer, for all behaviours: the mean or the sum of theirs, as they are "
        "or each weighted with the coefficient that was chosen for it alone, added or subtracted."
    )
    return Section("One combined vector", text, tables, figures)


def combining_works(results: Results) -> list[str]:
    """At each layer: what the best combined vector keeps of what the vectors alone do."""
    told = []
    for layer in results.layers.tested:
        variants = [one for one in VARIANTS if one.direction == ADD]
        moved = {one: _moved(results, layer, one) for one in variants}
        best = max(moved, key=lambda one: moved[one].value)
        alone = _alone(results, layer)
        broken = sum(_broken(results, layer, one) for one in VARIANTS)
        answers = len(VARIANTS) * len(results.names)
        sentence = (
            f"At layer {layer} the best of the combined vectors that are added ({best.shown}) "
            f"changes the mean matching probability by {moved[best].signed}, the vectors added "
            f"alone by {alone.signed}; {broken} of {answers} sets of answers under combined "
            "vectors collapse or turn faulty."
        )
        if alone.sign < 0:
            verdict = "The vectors alone already do the opposite of what is meant."
        elif alone.sign == 0:
            verdict = "The vectors alone do nothing certain here that a combined one could keep."
        elif moved[best].value < _HALF * alone.value:
            verdict = "Combining fails: less than half of the effect is left."
        else:
            verdict = "Combining does not fail here: at least half of the effect is left."
        told.append(f"{sentence} {verdict}")
    return told


def _moved(results: Results, layer: int, variant: Variant) -> Estimate:
    setting = combined(variant, layer, results.tuned)
    return change(results.every(setting), results.every(UNSTEERED), PROBABILITY)


def _alone(results: Results, layer: int) -> Estimate:
    own = [results.of(name, results.alone(name, layer, ADD)) for name in results.names]
    return change(own, results.every(UNSTEERED), PROBABILITY)


def _broken(results: Results, layer: int, variant: Variant) -> int:
    setting = combined(variant, layer, results.tuned)
    both = zip(results.every(setting), results.every(UNSTEERED), strict=True)
    return sum(not is_sound(*pair) for pair in both)


def _ways(results: Results, layer: int) -> dict[str, dict[str, Setting]]:
    """What is shown, in order, as the setting of each behaviour."""
    names = results.names
    ways: dict[str, dict[str, Setting]] = {"default": dict.fromkeys(names, UNSTEERED)}
    for direction in DIRECTIONS:
        own = {name: results.alone(name, layer, direction) for name in names}
        ways[f"alone, {direction}"] = own
    for one in VARIANTS:
        ways[one.shown] = dict.fromkeys(names, combined(one, layer, results.tuned))
    return ways


def _table(results: Results, layer: int, papers: int | None) -> Table:
    rows: list[list[Cell]] = []
    for way, settings in _ways(results, layer).items():
        row: list[Cell] = [way]
        for name in results.names:
            record = results.of(name, settings[name])
            row.append(f"{estimate([record], SCORE).shown} {flags(record)}".strip())
        records = [results.of(name, settings[name]) for name in results.names]
        row.append(change(records, results.every(UNSTEERED), PROBABILITY).signed)
        rows.append(row)
    if papers in COMBINED:
        own = [COMBINED[papers][name] for name in results.names]
        shown = ["collapsed" if value is None else f"{value:.3f}" for value in own]
        rows.append(["paper: sum, weighted, add", *shown, None])
    columns = ["one vector", *results.shown, "mean change of the probability"]
    title = f"Matching score at layer {layer}"
    if papers in COMBINED:
        title += f"; the paper's, of {MODEL} at layer {papers}, below it"
    return Table(title, columns, rows)


def _bars(results: Results, layer: int, measure: str) -> Figure:
    ways = _ways(results, layer)
    series = {
        shown: [estimate([results.of(name, own[name])], measure) for own in ways.values()]
        for name, shown in zip(results.names, results.shown, strict=True)
    }
    caption = (
        f"Each behaviour's {AXES[measure]} at layer {layer}: unsteered, with its own vector alone, "
        "and with one vector combined from all. Where combining works, the bars of a combined "
        "vector that is added stand as high as those of the vectors alone. Lines are 95 % "
        "intervals, the dotted line is chance."
    )
    return bars(
        f"all_results_layer_{layer}",
        measure,
        f"One combined vector at layer {layer}",
        caption,
        [way.replace(", ", "\n") for way in ways],
        series,
    )
