"""Each vector alone: scores when it is added and subtracted, beside the paper's."""

from __future__ import annotations

from faststeer.evaluate.records import Record, Setting
from faststeer.experiments.outcome import Cell, Figure, Section, Table
from faststeer.experiments.several.pictures import bars
from faststeer.experiments.several.protocol import SHOWN
from faststeer.experiments.several.published import ALONE, MODEL
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.scored import (
    MEASURES,
    PROBABILITY,
    SCORE,
    Estimate,
    change,
    estimate,
    flags,
)
from faststeer.experiments.several.settings import ADD, DIRECTIONS, SUBTRACT, UNSTEERED, Place
from faststeer.experiments.several.words import AXES, counted, listed, on_two_lines

DEFAULT = "default"
_ORDER = (DEFAULT, SUBTRACT, ADD)
_FEW = 30  # questions; a bootstrap of fewer is too narrow


def unsteered(results: Results) -> Section:
    """What the model answers as it stands."""
    rows: list[list[Cell]] = []
    for name in results.names:
        record = results.unsteered(name)
        rows.append(
            [
                SHOWN[name],
                len(record["items"]["answers"]),
                estimate([record], SCORE).shown,
                record["scores"]["faulty"],
                "yes" if record["scores"]["collapsed"] else "no",
                estimate([record], PROBABILITY).shown,
                record["scores"]["mass"],
                ALONE[15][name][0],
            ]
        )
    columns = ["behaviour", "questions", "matching score", "faulty", "collapsed"]
    columns += ["matching probability", "mass on options", "paper: score"]
    title = f"Unsteered, on the test part; the paper's, of {MODEL}, beside it"
    table = Table(title, columns, rows)
    text = (
        "The matching score is the share of greedy answers that match; an answer that is no option "
        "is faulty and counts as a miss, and one answer in more than 95 % is a collapse. The "
        "matching probability is that of the matching option, given that it is one of the two; the "
        "mass is the probability that it is one. In brackets: 95 % bootstrap intervals."
    )
    return Section("Unsteered", text, [table])


def answers_at_all(results: Results) -> str:
    """How well the model answers in options, unsteered."""
    records = [results.unsteered(name) for name in results.names]
    faulty = sum(record["scores"]["faulty"] for record in records)
    total = sum(len(record["items"]["answers"]) for record in records)
    both = zip(results.shown, records, strict=True)
    collapsed = [name for name, record in both if record["scores"]["collapsed"]]
    told = f"Unsteered, {faulty} of {total} answers are no option ({faulty / total:.1%})"
    fewest = min(len(record["items"]["answers"]) for record in records)
    warning = ""
    if fewest < _FEW:
        warning = (
            f" With {fewest} questions a behaviour nothing below is certain, whatever its interval."
        )
    if not collapsed:
        return f"{told}, and the answers to no set collapse into one.{warning}"
    return (
        f"{told}, but the answers to {listed(collapsed)} collapse into one: there the greedy score "
        f"tells which option is said always, and the probability is what to read.{warning}"
    )


def alone(results: Results) -> Section:
    """Coefficients, scores and pictures at both layers."""
    tables = [_chosen(results)]
    figures = []
    for layer, papers in results.layers.tested.items():
        tables.append(_scores(results, layer, papers))
        tables.append(_probabilities(results, layer))
        figures += [_bars(results, layer, measure) for measure in MEASURES]
    text = (
        "A vector at one layer, added or subtracted with the coefficient that moved the score "
        "furthest on the validation part without collapse or faulty answers; then tested on other "
        "questions."
    )
    return Section("Each vector alone", text, tables, figures)


def works_alone(results: Results) -> list[str]:
    """At each layer: for how many behaviours adding differs from subtracting, as it should."""
    told = []
    for layer in results.layers.tested:
        moved = {measure: _signs(results, layer, measure) for measure in MEASURES}
        as_meant = [SHOWN[n] for n, sign in moved[PROBABILITY].items() if sign > 0]
        wrong = [SHOWN[n] for n, sign in moved[PROBABILITY].items() if sign < 0]
        by_score = [SHOWN[n] for n, sign in moved[SCORE].items() if sign > 0]
        total = len(results.names)
        verdict = (
            "works" if 2 * len(as_meant) > total else "works for at most half of the behaviours"
        )
        if not as_meant:
            verdict = "does nothing certain"
        sentence = (
            f"At layer {layer} steering with one vector {verdict}: adding it rather than "
            f"subtracting it raises the matching probability for {counted(as_meant, total)}"
        )
        if wrong:
            sentence += f", lowers it for {listed(wrong)}"
        told.append(
            f"{sentence}; it raises the greedy score for {counted(by_score, total)} (95 % "
            "intervals clear of 0)."
        )
    return told


def moved_by(results: Results, name: str, layer: int, measure: str) -> Estimate:
    """Added rather than subtracted."""
    added, subtracted = (
        results.of(name, results.alone(name, layer, direction)) for direction in DIRECTIONS
    )
    return change([added], [subtracted], measure)


def _signs(results: Results, layer: int, measure: str) -> dict[str, int]:
    return {name: moved_by(results, name, layer, measure).sign for name in results.names}


def _chosen(results: Results) -> Table:
    columns = ["behaviour"]
    for layer in results.layers.alone:
        columns += [f"layer {layer}: subtract", f"layer {layer}: add"]
    rows: list[list[Cell]] = []
    for name in results.names:
        amounts = [
            results.tuned[Place(name, layer, direction)]
            for layer in results.layers.alone
            for direction in (SUBTRACT, ADD)
        ]
        rows.append([SHOWN[name], *(f"{c:+g}" for c in amounts)])
    return Table("Coefficients chosen on the validation part", columns, rows)


def _settings(results: Results, name: str, layer: int) -> dict[str, Setting]:
    steered = {direction: results.alone(name, layer, direction) for direction in DIRECTIONS}
    return {DEFAULT: UNSTEERED, **steered}


def _told(record: Record, measure: str) -> str:
    shown = estimate([record], measure).shown
    more = flags(record) if measure == SCORE else ""
    return f"{shown} {more}".strip()


def _scores(results: Results, layer: int, papers: int | None) -> Table:
    rows: list[list[Cell]] = []
    for name in results.names:
        settings = _settings(results, name, layer)
        row: list[Cell] = [SHOWN[name]]
        row += [_told(results.of(name, settings[kind]), SCORE) for kind in _ORDER]
        row.append(moved_by(results, name, layer, SCORE).signed)
        if papers is not None:
            row += ALONE[papers][name]
        rows.append(row)
    columns = ["behaviour", *_ORDER, "add − subtract"]
    if papers is not None:
        columns += [f"paper: {kind}" for kind in _ORDER]
    title = f"Matching score at layer {layer}"
    if papers is not None:
        title += f"; the paper's, of {MODEL} at layer {papers}, beside it"
    return Table(title, columns, rows)


def _probabilities(results: Results, layer: int) -> Table:
    rows: list[list[Cell]] = []
    for name in results.names:
        settings = _settings(results, name, layer)
        shown = [_told(results.of(name, settings[kind]), PROBABILITY) for kind in _ORDER]
        rows.append([SHOWN[name], *shown, moved_by(results, name, layer, PROBABILITY).signed])
    columns = ["behaviour", *_ORDER, "add − subtract"]
    return Table(f"Matching probability at layer {layer}", columns, rows)


def _bars(results: Results, layer: int, measure: str) -> Figure:
    series = {
        kind: [
            estimate([results.of(name, _settings(results, name, layer)[kind])], measure)
            for name in results.names
        ]
        for kind in _ORDER
    }
    caption = (
        f"Each behaviour's {AXES[measure]}, unsteered, and with its own vector subtracted and "
        f"added at layer {layer}. Steering works where the bars rise from the second to the third; "
        "lines are 95 % intervals, the dotted line is chance."
    )
    return bars(
        f"single_steering_layer_{layer}",
        measure,
        f"One vector at layer {layer}",
        caption,
        on_two_lines(results.shown),
        series,
    )
