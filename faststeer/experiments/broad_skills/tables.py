"""Tables of the accuracy kept and lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from faststeer.experiments.broad_skills.document_sets import CODE, OTHERS, PYTHON_ONLY, TEXT, Sets
from faststeer.experiments.broad_skills.measure import HALF, PERMUTED, TWO
from faststeer.experiments.broad_skills.strength_lines import VECTOR, StrengthLine
from faststeer.experiments.result import Cell, Table

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
    """List the documents that were drawn per source."""
    rows: list[list[Cell]] = []
    for at, own in enumerate(sets.drawn):
        kind = "text" if at >= sets.languages else "code"
        rows.append([own.source, kind, len(own.train), len(own.held_out), own.too_short])
    columns = ["source", "of", "documents for vectors", "held out", "left out, too short"]
    return Table("Documents", columns, rows)


def kept_table(lines: Sequence[StrengthLine], seed: int) -> Table:
    """List the text kept at each level of the skill, with intervals."""
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


def crosswise_table(lines: Sequence[StrengthLine], sources: Sequence[str]) -> Table:
    """List what is left of every skill and source when a vector's own skill is at half."""
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


def settings_table(lines: Sequence[StrengthLine]) -> Table:
    """List every setting: relative accuracies, and perplexity and KL on text."""
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
    columns += [
        "code, top 10",
        "Python, top 10",
        "text, top 10",
        "perplexity of text",
        "KL of text",
    ]
    return Table("Accuracy relative to the unsteered model (%)", columns, rows, 1)


def unsteered_table(line: StrengthLine) -> Table:
    """List the accuracies to which the others are relative."""
    scores = line.records[0]["scores"]
    rows = [
        [skill, 100 * own["accuracy"], 100 * own["accuracy10"], own["perplexity"]]
        for skill, own in scores.items()
    ]
    columns = ["skill", "top 1 (%)", "top 10 (%)", "perplexity"]
    return Table("Next tokens of the unsteered model", columns, rows, 1)


def _with_interval(line: StrengthLine, level: float, seed: int) -> Cell:
    kept = line.kept(level)
    if math.isnan(kept):
        return None
    ends = line.interval(lambda at: line.kept(level, documents=at), seed)
    shown = f"{100 * kept:.1f}"
    return shown if ends is None else f"{shown} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def _of_paper(line: StrengthLine) -> float | None:
    if line.kind == VECTOR:
        return _PAPER_LAYERS[line.away_from].get(line.places[0])
    return _PAPER_OTHERS[line.away_from].get(line.kind)


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share


def _relative(scores: Mapping[str, Any], name: str) -> float | None:
    return None if scores[name] is None else 100 * scores[name]
