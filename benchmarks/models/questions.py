"""Ask a model the paper's question sets, plain and in its chat template, steered both ways.

    python benchmarks/models/questions.py --model FOLDER [--output FILE]

Per set a vector from training questions, equally many of which each answer matches, at one layer;
then all questions of the test part, unsteered, with the vector added and subtracted. A run that
was interrupted is resumed with the sets that its file lacks.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

import faststeer
from faststeer.data.chat import ChatFormat
from faststeer.data.shipped import neutral_texts
from faststeer.diagnostics.dose import relative_dose, residual_norms
from faststeer.evaluate.bootstrap import mean_interval
from faststeer.evaluate.matching import Matching, matching_scores_by_setting
from faststeer.evaluate.provenance import shown_model_facts, versions
from faststeer.experiments.several_behaviours.protocol import LAYERS_AT_ONCE, Protocol
from faststeer.experiments.several_behaviours.questions import (
    BehaviourQuestions,
    in_chat,
    read_behaviours,
)
from faststeer.models import loading
from faststeer.models.loading import Loaded
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts


def main(
    model: Annotated[str, typer.Option(help="Hub name or folder of a model that can answer.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the question files.")] = None,
    layer: Annotated[float, typer.Option(help="Where to steer, as a share of the depth.")] = 0.58,
    coefficient: Annotated[float, typer.Option(help="Added and subtracted.")] = 2.0,
    train: Annotated[int, typer.Option(help="Pairs per vector.")] = 200,
    questions: Annotated[
        int | None, typer.Option(help="Test questions per set; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split into parts.")] = 13,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Ask every question, and print what the vectors change."""
    console = Console()
    loaded = loading.load(model, dtype=getattr(torch, dtype))
    protocol = Protocol(train=train, balanced=True, items=questions)
    plain = read_behaviours(list(LAYERS_AT_ONCE), data, protocol, seed)
    at = round(layer * loaded.model.config.num_hidden_layers)
    forms = {"plain": plain, "chat": in_chat(plain, ChatFormat(loaded.tokenizer))}
    results: dict[str, Any] = {
        "model": shown_model_facts(loaded.model),
        "versions": versions(),
        "machine": machine_facts(),
        "layer": at,
        "coefficient": coefficient,
        "train": train,
        "seed": seed,
        "dtype": dtype,
        "sets": [],
    }
    results["sets"] = _sets_of_before(output, results)
    done = {(own["form"], own["set"]) for own in results["sets"]}
    for form, sets in forms.items():
        for own in sets:
            if (form, own.name) in done:
                continue
            results["sets"].append({"form": form, **asked(loaded, own, at, coefficient, form)})
            console.print(results["sets"][-1])
            if output is not None:  # after every set: all of them take hours on two cores
                write_whole(output, (json.dumps(results, indent=1) + "\n").encode())


def _sets_of_before(output: Path | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sets of a run that was interrupted. Raises ValueError for another run's file."""
    if output is None or not output.exists():
        return []
    before = json.loads(output.read_text(encoding="utf-8"))
    for key in ("model", "versions", "layer", "coefficient", "train", "seed", "dtype"):
        if before[key] != facts[key]:
            raise ValueError(f"{output} is of another {key}: {before[key]}, not {facts[key]}")
    found: list[dict[str, Any]] = before["sets"]
    return found


def asked(
    loaded: Loaded, questions: BehaviourQuestions, layer: int, coefficient: float, form: str
) -> dict[str, Any]:
    """Return one set's scores: unsteered, added, subtracted, with intervals, and the difference."""
    model, tokenizer = loaded.model, loaded.tokenizer
    vector = faststeer.extract(
        model,
        tokenizer,
        questions.pairs,
        name=questions.name,
        layers=layer,
        add_special_tokens=form == "plain",
        progress=False,
    )
    norms = residual_norms(model, tokenizer, neutral_texts(), layers=layer)
    with faststeer.patch(model) as patched:
        patched.steer(vector, 0.0)
        settings = [{questions.name: sign * coefficient} for sign in (1, -1)]
        unsteered, (added, subtracted) = matching_scores_by_setting(
            patched, model, tokenizer, questions.test, settings
        )
    difference = _probabilities(added) - _probabilities(subtracted)
    return {
        "set": questions.name,
        "questions": len(questions.test),
        "sha256": questions.facts["test"]["sha256"],
        "dose": relative_dose(vector, norms, coefficient)[layer],
        "unsteered": scores(unsteered),
        "added": scores(added),
        "subtracted": scores(subtracted),
        "difference": float(difference.mean()),
        "difference_interval": mean_interval(difference),
    }


def scores(answers: Matching) -> dict[str, Any]:
    """Return matching score and probability with intervals, and the share of the usual answer."""
    probabilities = _probabilities(answers)
    most = max(answers.answers.count(own) for own in set(answers.answers))
    return {
        "score": answers.score,
        "score_interval": mean_interval(answers.matched.double()),
        "probability": float(probabilities.mean()),
        "probability_interval": mean_interval(probabilities),
        "usual_answer": most / len(answers.answers),
        "faulty": answers.faulty,
    }


def _probabilities(answers: Matching) -> Tensor:
    found = (answers.log_matching - answers.log_other).sigmoid()
    if not math.isfinite(float(found.sum())):
        raise ValueError("a question's options have no probability; is it a causal model?")
    return found


if __name__ == "__main__":
    typer.run(main)
