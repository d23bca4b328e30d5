"""What was found, put in order: sentences, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from faststeer.experiments.broad import hypotheses, pictures, tables
from faststeer.experiments.broad.lines import Line
from faststeer.experiments.broad.measuring import best_of
from faststeer.experiments.broad.sets import CODE, PYTHON_ONLY, TEXT, Sets
from faststeer.experiments.outcome import Section


@dataclass(frozen=True)
class Found:
    """What was measured, by the skill that is steered away from.

    `norms`: of each vector by layer; `means`: of text and of the skill, at `layer`.
    """

    by_layer: Mapping[str, list[Line]]
    variants: Mapping[str, list[Line]]
    norms: Mapping[str, Mapping[int, float]]
    layer: int
    means: Mapping[str, tuple[Tensor, Tensor]]


def sections(sets: Sets, found: Found, seed: int) -> list[Section]:
    """Of an outcome."""
    return [
        _kept(found, seed),
        _questions(found, seed),
        _crosswise(sets, found),
        _components(found),
        _data(sets, found),
        _every_setting(found),
    ]


def _kept(found: Found, seed: int) -> Section:
    lines = {skill: [*own, *found.variants[skill]] for skill, own in found.by_layer.items()}
    return Section(
        "What text keeps when a skill is lost",
        "A vector from a skill to text, the mean over documents of text less that of the skill at "
        "their last tokens, is added at all positions of one layer. Accuracy is that of the next "
        "token, relative to the unsteered model's; between two coefficients a straight line is "
        "assumed. A dash: the skill did not fall so far. Baselines are at the layer that spares "
        "text most; two layers at once get half of the coefficient each.",
        [tables.kept_table(own, seed) for own in lines.values()],
        [
            pictures.against_text("general_coding", lines[CODE]),
            pictures.against_text("python_ability", lines[PYTHON_ONLY]),
        ],
    )


def _questions(found: Found, seed: int) -> Section:
    code, python = (found.by_layer[skill] for skill in (CODE, PYTHON_ONLY))
    said = [hypotheses.broad_against_narrow(code, python, seed)]
    said += [hypotheses.growing_tax(best_of(lines), seed) for lines in (code, python)]
    said += [hypotheses.first_layer(lines, seed) for lines in (code, python)]
    for skill, lines in found.by_layer.items():
        said.append(hypotheses.baselines(best_of(lines), found.variants[skill], seed))
    said.append(hypotheses.python_at_half([*python, *code]))
    said.append(
        "Intervals are of resampled documents, 95 %. Layers were chosen on the documents that "
        "they are compared on, which flatters the best one of each."
    )
    return Section("The paper's questions, and what the numbers say", "\n\n".join(said))


def _crosswise(sets: Sets, found: Found) -> Section:
    best = [best_of(lines) for lines in found.by_layer.values()]
    sources = [own.source for own in sets.drawn]
    every = [line for lines in found.by_layer.values() for line in lines]
    return Section(
        "One skill's vector, the other skills",
        hypotheses.crosswise(*best),
        [tables.crosswise_table(every, sources)],
        [pictures.other_skills(best, [CODE, *sources, TEXT])],
    )


def _components(found: Found) -> Section:
    means = [(skill, *own) for skill, own in found.means.items()]
    return Section("The means", "", [], [pictures.components(found.layer, means)])


def _data(sets: Sets, found: Found) -> Section:
    text = (
        "Documents for vectors and documents to measure on are different files. Comments and "
        "descriptions that a file of code begins with are dropped, and generated files left out. "
        "General code has as many documents of each language."
    )
    first = found.by_layer[CODE][0]
    return Section(
        "What it was measured on", text, [tables.sources_table(sets), tables.unsteered_table(first)]
    )


def _every_setting(found: Found) -> Section:
    lines = [
        line for skill, own in found.by_layer.items() for line in [*own, *found.variants[skill]]
    ]
    return Section("Every setting", "", [tables.settings_table(lines)])
