"""The experiment as a whole: from sources of documents to what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.evaluate import Subject
from faststeer.evaluate.provenance import model_facts, versions
from faststeer.experiments.broad.directions import LastTokens
from faststeer.experiments.broad.measuring import VECTORS, Measuring, Plan, best_of
from faststeer.experiments.broad.sets import CODE, draw_sets
from faststeer.experiments.broad.sources import Source
from faststeer.experiments.broad.telling import Found, sections
from faststeer.experiments.outcome import RECORDS, Outcome
from faststeer.patching.patch import temporarily_patched
from faststeer.utils.progress import progress_bar

EXPERIMENT = "broad-skills"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    `layers`: 0-based, or "all"; those that the model lacks are left out. `coefficients`: above 0.
    `documents`: of each set to make vectors from, and as many to measure on, of at most
    `max_length` tokens.
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
) -> Outcome:
    """Steer away from general code, and from Python, and see what is left of text.

    Section 3 of van der Weij et al. 2024 (arXiv 2403.05767). What was measured in `output` before
    with the same arguments is taken up.

    Args:
        model: a causal model that `patch` accepts; it is left as it was.
        tokenizer: its tokenizer.
        code: from `code_sources`.
        text: from `text_sources`.
        output: a folder for ``outcome.json``, figures and records.
        size: how much is measured.
        batch_size: documents a forward.
        seed: of the draws of documents, of random directions and of intervals.
        progress: show bars with the time left.

    Raises:
        OSError: the folder cannot be written.
        ValueError: too few documents, no layer of the model, coefficients that make no sense, or
            results of another experiment in the folder.
    """
    amounts = sorted(set(size.coefficients))
    if not amounts or amounts[0] <= 0:
        raise ValueError(f"coefficients {list(size.coefficients)}: expected numbers above 0")
    sets = draw_sets(
        code, text, tokenizer, documents=size.documents, max_length=size.max_length, seed=seed
    )
    with temporarily_patched(model) as patched:
        numbers = _there(size.layers, patched.num_layers)
        facts_of_model = model_facts(model)
        header = {"experiment": EXPERIMENT, "model": facts_of_model, "seed": seed}
        plan = Plan(sets, numbers, amounts, size.max_length, seed, output / RECORDS, header)
        plan.folder.mkdir(parents=True, exist_ok=True)
        subject = Subject(patched, model, tokenizer, batch_size)
        found = _measured(subject, plan, progress)
    facts = {
        **header,
        "versions": versions(),
        "layers": numbers,
        "coefficients": amounts,
        "documents": size.documents,
        "max_length": size.max_length,
        "sources": sets.facts,
        "norms": found.norms,
    }
    outcome = Outcome(
        EXPERIMENT,
        f"Broad skills: steering away from code ({facts_of_model['name']})",
        facts,
        sections(sets, found, seed),
    )
    outcome.write(output)
    return outcome


def _there(layers: str | Sequence[int], depth: int) -> list[int]:
    """Those that a model has."""
    numbers = range(depth) if isinstance(layers, str) else layers
    found = sorted({layer for layer in numbers if 0 <= layer < depth})
    if not found:
        raise ValueError(
            f"layers {list(numbers)}: the model has none of them, only 0 to {depth - 1}"
        )
    return found


def _measured(subject: Subject, plan: Plan, progress: bool) -> Found:
    def read(layers: Sequence[int], site: str) -> LastTokens:
        return LastTokens(
            subject.model,
            subject.tokenizer,
            plan.sets,
            layers,
            site=site,
            max_length=plan.max_length,
            batch_size=subject.batch_size,
            progress=progress,
        )

    with subject.patched.off():
        states = read(plan.layers, "resid_post")
    with progress_bar("measuring", plan.settings * plan.items, progress) as advance:
        measuring = Measuring(subject, plan, states, advance)
        by_layer = {skill: measuring.every_layer(skill) for skill in VECTORS}
    best = {skill: best_of(lines).places[0] for skill, lines in by_layer.items()}
    with subject.patched.off():
        middle = read(sorted(set(best.values())), "resid_mid")
    with progress_bar("variants", plan.variants * plan.items, progress) as advance:
        measuring = Measuring(subject, plan, states, advance)
        variants = {skill: measuring.variants(skill, best[skill], middle) for skill in VECTORS}
    return Found(
        by_layer,
        variants,
        {VECTORS[skill]: states.vector(VECTORS[skill], skill).norms() for skill in VECTORS},
        best[CODE],
        {skill: states.means(skill, best[CODE]) for skill in VECTORS},
    )
