"""The experiment as a whole: from sources of documents to the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.evaluate import Subject
from faststeer.evaluate.provenance import model_facts, versions
from faststeer.experiments.broad_skills.document_sets import CODE, Sets, draw_sets
from faststeer.experiments.broad_skills.measure import VECTORS, SkillLines, best_of
from faststeer.experiments.broad_skills.sections import Measurements, sections
from faststeer.experiments.broad_skills.sources import Source
from faststeer.experiments.broad_skills.vectors import LastTokens
from faststeer.experiments.measure import Recorder
from faststeer.experiments.result import RECORDS, Result
from faststeer.patching.patch import temporarily_patched

EXPERIMENT = "broad-skills"


@dataclass(frozen=True)
class Size:
    """The size of the experiment.

    `layers`: 0-based, or "all"; those that the model lacks are left out. `coefficients`: above 0.
    `documents`: per set to make vectors from, and as many to measure on, of at most `max_length`
    tokens.
    """

    layers: str | Sequence[int] = (0, 5, 10, 15, 20, 25)
    coefficients: Sequence[float] = (0.75, 1.25, 1.75, 2.5)
    documents: int = 45
    max_length: int = 96


DEFAULT = Size()
QUICK = Size((0, 10, 15), (1.25, 2.5), 9, 64)
PAPER = Size(
    (0, 5, 10, 15, 20, 25, 30),
    (
        *(0.25, 0.5, *(number / 10 for number in range(6, 21))),
        *(2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0),
    ),
)


def broad_skills(
    model: nn.Module,
    tokenizer: Any,
    code: Sequence[Source],
    text: Sequence[Source],
    *,
    output: Path,
    size: Size = DEFAULT,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Steer away from general code and Python; measure the accuracy lost on each and on text.

    Section 3 of van der Weij et al. 2024 (arXiv 2403.05767). An interrupted run with the same
    arguments resumes from `output`.

    Args:
        model: a causal model that `patch` accepts; it is restored afterwards.
        tokenizer: its tokenizer.
        code: from `code_sources`.
        text: from `text_sources`.
        output: a folder for ``outcome.json``, figures and records.
        size: of the experiment.
        batch_size: documents per forward pass.
        seed: for drawing documents, random directions and intervals.
        progress: show progress bars.

    Raises:
        OSError: the folder cannot be written.
        ValueError: too few documents, no layer of the model, coefficients that are invalid, or
            results of another experiment in the folder.
    """
    coefficients = sorted(set(size.coefficients))
    if not coefficients or coefficients[0] <= 0:
        raise ValueError(f"coefficients {list(size.coefficients)}: expected numbers above 0")
    sets = draw_sets(
        code, text, tokenizer, documents=size.documents, max_length=size.max_length, seed=seed
    )
    with temporarily_patched(model) as patched:
        layers = _in_model(size.layers, patched.num_layers)
        facts_of_model = model_facts(model)
        header = {"experiment": EXPERIMENT, "model": facts_of_model, "seed": seed}
        (output / RECORDS).mkdir(parents=True, exist_ok=True)
        subject = Subject(patched, model, tokenizer, batch_size)
        recorder = Recorder(subject, output / RECORDS, header, progress)
        measured = _measured(recorder, sets, layers, coefficients, size.max_length, seed)
    facts = {
        **header,
        "versions": versions(),
        "layers": layers,
        "coefficients": coefficients,
        "documents": size.documents,
        "max_length": size.max_length,
        "sources": sets.facts,
        "norms": measured.norms,
    }
    result = Result(
        EXPERIMENT,
        f"Broad skills: steering away from code ({facts_of_model['name']})",
        facts,
        sections(sets, measured, seed),
    )
    result.write(output)
    return result


def _in_model(layers: str | Sequence[int], depth: int) -> list[int]:
    """Return the layers that a model of `depth` layers has."""
    numbers = range(depth) if isinstance(layers, str) else layers
    found = sorted({layer for layer in numbers if 0 <= layer < depth})
    if not found:
        raise ValueError(
            f"layers {list(numbers)}: the model has none of them, only 0 to {depth - 1}"
        )
    return found


def _measured(
    recorder: Recorder,
    sets: Sets,
    layers: Sequence[int],
    coefficients: Sequence[float],
    max_length: int,
    seed: int,
) -> Measurements:
    subject = recorder.subject

    def read(layers: Sequence[int], site: str) -> LastTokens:
        with subject.patched.off():
            return LastTokens(
                subject.model,
                subject.tokenizer,
                sets,
                layers,
                site=site,
                max_length=max_length,
                batch_size=subject.batch_size,
                progress=recorder.progress,
            )

    states = read(layers, "resid_post")
    lines = SkillLines(recorder, sets, states, coefficients, max_length, seed)
    by_layer = {skill: lines.by_layer(skill) for skill in VECTORS}
    best = {skill: best_of(own).places[0] for skill, own in by_layer.items()}
    middle = read(sorted(set(best.values())), "resid_mid")
    return Measurements(
        by_layer,
        {skill: lines.variants(skill, best[skill], middle) for skill in VECTORS},
        {name: states.vector(name, skill).norms() for skill, name in VECTORS.items()},
        best[CODE],
        {skill: states.means(skill, best[CODE]) for skill in VECTORS},
    )
