"""Whether a model's answers to the paper's question sets can be steered, on every test question.

    python benchmarks/models/questions.py --model MODEL --data BEHAVIOURS --output FILE

Each behaviour's vector, of equally many pairs per matching answer, alone at one layer, with the
coefficients that move the probability furthest on validation questions; with the plain questions
and in the model's chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

import faststeer
from faststeer.evaluate import matching_scores_by_setting, mean_interval
from faststeer.evaluate.matching import Matching
from faststeer.evaluate.provenance import shown_model_facts, versions
from faststeer.experiments.several_behaviours import BEHAVIOURS, Protocol, read_behaviours
from faststeer.experiments.several_behaviours.protocol import SHOWN
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions, in_chat
from faststeer.models import load

COEFFICIENTS = (1.0, 2.0, 4.0, 8.0)
CHOOSING = 60  # validation questions
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = ("subtracted", "unsteered", "added")


def probabilities(found: Matching) -> torch.Tensor:
    """Return the probability of each matching option, given that it is one of the two."""
    return (found.log_matching - found.log_other).sigmoid()


def measure(loaded: Any, own: BehaviourQuestions, layer: int, batch_size: int) -> dict[str, Any]:
    """Return a behaviour's scores on its test questions, with the coefficients that were chosen."""
    model, tokenizer = loaded.model, loaded.tokenizer
    vector = faststeer.extract(
        model, tokenizer, own.pairs, name=own.name, layers=layer, progress=False
    )
    with faststeer.patch(model) as patched:
        patched.steer(vector, 0.0)

        def scores(choices: list[Any], coefficients: list[float]) -> list[Matching]:
            settings = [{own.name: {layer: c}} for c in coefficients]
            unsteered, found = matching_scores_by_setting(
                patched, model, tokenizer, choices, settings, batch_size=batch_size
            )
            return [unsteered, *found]

        signed = [sign * c for c in COEFFICIENTS for sign in (1, -1)]
        _, *tried = scores(own.validation[:CHOOSING], signed)
        means = dict(zip(signed, (float(probabilities(one).mean()) for one in tried), strict=True))
        high = max((c for c in signed if c > 0), key=means.__getitem__)
        low = min((c for c in signed if c < 0), key=means.__getitem__)
        unsteered, added, subtracted = scores(own.test, [high, low])
    found = dict(zip(KINDS, (subtracted, unsteered, added), strict=True))
    moved = probabilities(added) - probabilities(subtracted)
    return {
        "questions": len(own.test),
        "pairs": len(own.train),
        "norm": vector.norms()[layer],
        "coefficients": [high, low],
        "mass": unsteered.mass,
        "collapsed": {kind: one.collapsed for kind, one in found.items()},
        "score": {kind: one.score for kind, one in found.items()},
        "probability": {kind: one.probability for kind, one in found.items()},
        "added - subtracted": [float(moved.mean()), *mean_interval(moved)],
        "score added - subtracted": [
            added.score - subtracted.score,
            *mean_interval(added.matched.double() - subtracted.matched.double()),
        ],
    }


def main(
    model: Annotated[str, typer.Option(help="Hub name or folder.")],
    data: Annotated[Path, typer.Option(help="The folder of the question sets.")],
    output: Annotated[Path, typer.Option(help="JSON file.")],
    layer: Annotated[int, typer.Option(help="Where the vectors steer.")] = 14,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    questions: Annotated[int | None, typer.Option(help="Of each test part; default all.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions per forward pass.")] = 16,
) -> None:
    loaded = load(model, dtype=DTYPES[dtype])
    protocol = Protocol(items=None, balanced=True)
    asked = read_behaviours(BEHAVIOURS, data, protocol, 13)
    if questions is not None:
        asked = [
            BehaviourQuestions(own.name, own.train, own.validation, own.test[:questions])
            for own in asked
        ]
    record: dict[str, Any] = {"model": shown_model_facts(loaded.model), "versions": versions()}
    record |= {"layer": layer, "plain": {}, "chat": {}}
    console = Console(width=110)
    for form, sets in (("plain", asked), ("chat", in_chat(asked, loaded.tokenizer))):
        table = Table("behaviour", *KINDS, "added − subtracted", title=form, box=box.SIMPLE)
        for own in sets:
            found = measure(loaded, own, layer, batch_size)
            record[form][own.name] = found
            mean, low, high = found["added - subtracted"]
            values = [f"{found['probability'][kind]:.3f}" for kind in KINDS]
            table.add_row(SHOWN[own.name], *values, f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
            output.write_text(json.dumps(record, indent=1) + "\n")
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
