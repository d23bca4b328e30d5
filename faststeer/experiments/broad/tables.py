"""Tables of what was kept and what was lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from faststeer.experiments.broad.lines import Line
from faststeer.experiments.broad.measuring import HALF, PERMUTED, TWO, VECTOR
from faststeer.experiments.broad.sets import CODE, OTHERS, PYTHON_ONLY, TEXT, Sets
from faststeer.experiments.outcome import Cell, Table

LEVELS = (0.8, 0.65, 0.5, 0.3)
# Text kept at half, LLaMA-2-7B: computed from the result files that came with the paper.
_PAPER_LAYERS = {
    CODE: {0: 24.0, 5: 57.8, 10: 71.3, 15: 73.3, 20: 67.7, 25: 68.6, 30: 66.0},
    PYTHON_ONLY: {0: 28.1, 5: 62.8, 10: 75.4, 15: 73.4, 20: 60.3, 25: 62.6, 30: 64.0},
}
_PAPER_OTHERS = {  # permuted at layer 15; two at once at layers 10 and 15
    CODE: {PERMUTED: 62.1, TWO: 78.7},
    PYTHON_ONLY: {PERMUTED: 58.9, TWO: 76.7},
}


def sources_table(sets: Sets) -> Table:
    """What was drawn from where."""
    rows: list[list[Cell]] = []
    for at, own in enumerate(sets.drawn):
        kind = "text" if at >= sets.languages else "code"
        rows.append([own.source, kind, len(own.train), len(own.held_out), own.too_short])
    columns = ["source", "of", "documents for vectors", "held out", "left out, too short"]
    return Table("Documents", columns, rows)


def kept_table(lines: Sequence[Line], seed: int) -> Table:
    """Text kept at each level of the skill that the lines steer away from, with intervals."""
    skill = lines[0].away_from
    rows: list[list[Cell]] = []
    for line in lines:
        cells = [_with_interval(line, level, seed) for level in LEVELS]
        rows.append([line.name, *cells, _of_paper(line)])
    return Table(
        f"Text kept (%) when {skill} has fallen to ..., with 95 % intervals over documents",
        ["steering", *(f"{level:.0%}" for level in LEVELS), "LLaMA-2-7B at 50%"],
        rows,
        1,
    )


def crosswise_table(lines: Sequence[Line], sources: Sequence[str]) -> Table:
    """What is left of everything when a vector has brought its own skill to half."""
    names = list(dict.fromkeys([CODE, PYTHON_ONLY, OTHERS, TEXT, *sources]))
    rows = [
        [line.away_from, line.name, *(_percent(line.kept(HALF, name)) for name in names)]
        for line in lines
    ]
    return Table(
        "What is left (%) when a vector's own skill is at 50%",
        ["away from", "steering", *names],
        rows,
        1,
    )


def settings_table(lines: Sequence[Line]) -> Table:
    """Every setting that was measured: relative accuracies, and what text costs otherwise."""
    rows: list[list[Cell]] = []
    for line in lines:
        for record, coefficient in zip(line.records[1:], line.coefficients[1:], strict=True):
            scores: Mapping[str, Any] = record["scores"]
            rows.append(
                [line.away_from, line.name, f"{coefficient:g}"]
                + [_relative(scores[skill], "relative") for skill in (CODE, PYTHON_ONLY, TEXT)]
                + [_relative(scores[skill], "relative10") for skill in (CODE, PYTHON_ONLY, TEXT)]
                + [scores[TEXT]["perplexity"], scores[TEXT]["kl"]]
            )
    columns = ["away from", "steering", "coefficient", "code", "Python", "text"]
    columns += ["code, top 10", "Python, top 10", "text, top 10", "text's perplexity", "text's KL"]
    return Table("Accuracy relative to the unsteered model (%)", columns, rows, 1)


def unsteered_table(line: Line) -> Table:
    """The accuracies to which others are relative."""
    scores = line.records[0]["scores"]
    rows = [
        [skill, 100 * own["accuracy"], 100 * own["accuracy10"], own["perplexity"]]
        for skill, own in scores.items()
    ]
    columns = ["skill", "top 1 (%)", "top 10 (%)", "perplexity"]
    return Table("The unsteered model's next tokens", columns, rows, 1)


def _with_interval(line: Line, level: float, seed: int) -> Cell:
    kept = line.kept(level)
    if math.isnan(kept):
        return None
    sure = line.sure(lambda at: line.kept(level, documents=at), seed)
    told = f"{100 * kept:.1f}"
    return told if sure is None else f"{told} ({100 * sure[0]:.1f} to {100 * sure[1]:.1f})"


def _of_paper(line: Line) -> float | None:
    if line.kind == VECTOR:
        return _PAPER_LAYERS[line.away_from].get(line.places[0])
    return _PAPER_OTHERS[line.away_from].get(line.kind)


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share


def _relative(scores: Mapping[str, Any], name: str) -> float | None:
    return None if scores[name] is None else 100 * scores[name]
