"""The sections of the experiment's result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from faststeer.experiments.broad_skills import figures, findings, tables
from faststeer.experiments.broad_skills.document_sets import CODE, PYTHON_ONLY, TEXT, Sets
from faststeer.experiments.broad_skills.measure import best_of
from faststeer.experiments.broad_skills.strength_lines import StrengthLine
from faststeer.experiments.result import FINDINGS, Section


@dataclass(frozen=True)
class Measurements:
    """All lines, by the skill that is steered away from.

    `norms`: of each vector by layer; `means`: of text and of the skill, at `layer`.
    """

    by_layer: Mapping[str, list[StrengthLine]]
    variants: Mapping[str, list[StrengthLine]]
    norms: Mapping[str, Mapping[int, float]]
    layer: int
    means: Mapping[str, tuple[Tensor, Tensor]]


def sections(sets: Sets, measured: Measurements, seed: int) -> list[Section]:
    """Return the tables and figures under their headings."""
    lines = {skill: [*own, *measured.variants[skill]] for skill, own in measured.by_layer.items()}
    every = [line for own in measured.by_layer.values() for line in own]
    best = [best_of(own) for own in measured.by_layer.values()]
    sources = [own.source for own in sets.drawn]
    return [
        Section(
            FINDINGS,
            f"{findings.kept_in_words(measured.by_layer, seed)}\n\n"
            "Documents are resampled for the 95 % intervals. The best layers were chosen on the "
            "documents that they are compared on, which favours them.",
            [
                findings.comparisons_table(measured.by_layer, measured.variants, seed),
                findings.price_table(measured.by_layer, seed),
            ],
        ),
        Section(
            "Text kept when a skill is lost",
            "The vector, mean(text) − mean(skill) over last tokens of documents, is added at all "
            "positions of one layer. Accuracy is top-1 of the next token, relative to the "
            "unsteered model, interpolated linearly between coefficients. A dash: the skill did "
            "not fall so far. Baselines are at the layer that keeps most text; with two layers at "
            "once each gets half of the coefficient.",
            [tables.kept_table(own, seed) for own in lines.values()],
            [
                figures.against_text("general_coding", lines[CODE]),
                figures.against_text("python_ability", lines[PYTHON_ONLY]),
            ],
        ),
        Section(
            "The other skills",
            "",
            [tables.crosswise_table(every, sources)],
            [figures.other_skills(best, [CODE, *sources, TEXT])],
        ),
        Section(
            "The means",
            "",
            [],
            [figures.components(measured.layer, measured.means)],
        ),
        Section(
            "Data",
            "Documents for vectors and documents to measure on are different files. Comments and "
            "descriptions at the beginning of a file of Python, C or C++ are dropped, generated "
            "files are left out. General code has equally many documents per language.",
            [tables.sources_table(sets), tables.unsteered_table(lines[CODE][0])],
        ),
        Section("Every setting", "", [tables.settings_table([*lines[CODE], *lines[PYTHON_ONLY]])]),
    ]
