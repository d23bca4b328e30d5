"""The experiment from questions to an outcome, each step kept in files as it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.evaluate.provenance import data_hash, model_facts, vector_hash, versions
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask, Subject
from faststeer.experiments.charts import require_charts
from faststeer.experiments.outcome import RECORDS, Outcome
from faststeer.experiments.several.asked import Asked
from faststeer.experiments.several.choosing import Chooser
from faststeer.experiments.several.freely import prompts, said_freely
from faststeer.experiments.several.making import made
from faststeer.experiments.several.measuring import TEXT, Bench
from faststeer.experiments.several.protocol import Layers, Protocol
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.settings import (
    DIRECTIONS,
    UNSTEERED,
    VARIANTS,
    Place,
    alone,
    at_once,
    combined,
)
from faststeer.experiments.several.telling import told
from faststeer.experiments.several.tuning import measured_alone, tuned
from faststeer.patching.patch import temporarily_patched
from faststeer.vectors.steering_vector import SteeringVector

VECTORS = "vectors"


def several_behaviours(
    model: nn.Module,
    tokenizer: Any,
    asked: Sequence[Asked],
    texts: Sequence[str],
    output: Path,
    *,
    protocol: Protocol,
    text_source: str,
    layers: str | Sequence[int] | None = None,
    seed: int = 13,
    batch_size: int = 8,
    progress: bool = True,
) -> Outcome:
    """Steer several behaviours, alone and together, and measure what comes of it.

    Writes ``outcome.json``, ``figures/``, ``records/`` and ``vectors/`` into `output`, as an
    `Outcome` does. What was interrupted goes on where it was. Two runs are equal to the byte.

    Args:
        model: a model that `patch` accepts; it is afterwards as it was.
        tokenizer: its tokenizer.
        asked: the behaviours' questions.
        texts: general text, at least two; every other one is kept for the test.
        output: a folder, made where it is not there.
        protocol: how much is measured.
        text_source: what the texts are, in words.
        layers: at which each vector is tried alone, of this model; in place of the protocol's.
        seed: with which the questions were parted; only told in the files.
        batch_size: texts a forward.
        progress: show bars.

    Raises:
        OSError: the folder cannot be written.
        ValueError: what the model cannot be asked, too few texts, layers or coefficients that make
            no sense, or a folder with the records of another run.
    """
    require_charts()
    if len(texts) < 2:
        raise ValueError(f"got {len(texts)} general texts; expected at least two")
    _require_both_signs(protocol.coefficients)
    names = [own.name for own in asked]
    facts = _model_facts(model)
    with ExitStack() as leaving:
        patched = leaving.enter_context(temporarily_patched(model))
        if taken := set(names) & patched.plan.interventions.keys():
            raise ValueError(f"vectors named {sorted(taken)} steer the model already; rename them")
        places = Layers.of(protocol, names, patched.num_layers, layers)
        subject = Subject(patched, model, tokenizer, batch_size)
        _require_askable(subject, asked, texts, protocol)
        (output / RECORDS).mkdir(parents=True, exist_ok=True)
        kept = output / VECTORS
        with patched.off():
            vectors = made(
                model, tokenizer, asked, places.needed, kept, facts, batch_size, progress
            )
        for vector in vectors.values():
            leaving.callback(patched.steer(vector, 0.0).remove)
        hashes = {name: vector_hash(vector) for name, vector in vectors.items()}
        common = {"experiment": "behaviours", "model": facts, "vectors": hashes, "seed": seed}
        bench = Bench(subject, output / RECORDS, common, progress)
        results = _measured(bench, protocol, places, asked, vectors, texts)
    made_with = {
        "model": facts,
        "versions": versions(),
        "seed": seed,
        "protocol": vars(protocol),
        "layers": vars(places),
        "behaviours": {own.name: own.facts for own in asked},
        TEXT: {"source": text_source, "texts": len(texts), "sha256": data_hash(list(texts))},
        "vectors": hashes,
    }
    outcome = told(results, made_with)
    outcome.write(output)
    return outcome


def _measured(
    bench: Bench,
    protocol: Protocol,
    layers: Layers,
    asked: Sequence[Asked],
    vectors: Mapping[str, SteeringVector],
    texts: Sequence[str],
) -> Results:
    """All of it: what is chosen first, then the test of it."""
    choosing, testing = texts[0::2], texts[1::2]
    names = [own.name for own in asked]
    validation = measured_alone(bench, asked, vectors, layers.alone, protocol.coefficients)
    amounts = tuned(validation, layers.alone, protocol.coefficients)
    chooser = Chooser(bench, asked, layers, protocol, choosing)
    whole = chooser.whole()
    jointly = chooser.jointly(whole)
    chosen = [at_once(layers.at_once, own) for own in (dict.fromkeys(names, whole), jointly)]
    globally = [at_once(layers.at_once, dict.fromkeys(names, c)) for c in protocol.at_once]
    singly = [
        alone(name, layers.all_at_one, amounts[Place(name, layers.all_at_one, direction)])
        for name in names
        for direction in DIRECTIONS
    ]
    variants = [combined(one, layer, amounts) for layer in layers.tested for one in VARIANTS]
    together = [*singly, *variants, *globally, *chosen]
    test = {}
    for own in asked:
        by_itself = [
            alone(own.name, layer, amounts[Place(own.name, layer, direction)])
            for layer in layers.tested
            for direction in DIRECTIONS
        ]
        test[own.name] = bench.answers("test", own.name, own.test, by_itself + together)
    text = bench.texts("test", testing, protocol.text_tokens, [*singly, *globally, *chosen])
    freely = said_freely(
        bench, prompts(protocol.prompts), protocol.new_tokens, [UNSTEERED, *singly, *chosen]
    )
    return Results(
        protocol, layers, asked, vectors, validation, amounts, whole, jointly, test, text, freely
    )


def _require_both_signs(coefficients: Sequence[float]) -> None:
    if not any(c > 0 for c in coefficients) or not any(c < 0 for c in coefficients):
        raise ValueError(
            f"coefficients {list(coefficients)}: expected one above 0, to add a vector, and one "
            "below, to subtract it"
        )


def _require_askable(
    subject: Subject, asked: Sequence[Asked], texts: Sequence[str], protocol: Protocol
) -> None:
    """Raise ValueError, before anything long, where the model cannot be asked all of it."""
    for own in asked:
        try:
            ChoicesTask(own.name, [*own.train, *own.validation, *own.test]).check(subject)
        except ValueError as error:
            raise ValueError(f"{own.name}: {error}") from None
    DocumentsTask({TEXT: texts}, TEXT, protocol.text_tokens).check(subject)


def _model_facts(model: nn.Module) -> dict[str, Any]:
    """A model from a folder goes by the folder's own name: results tell of no machine."""
    facts = model_facts(model)
    path = Path(facts["name"])
    return {**facts, "name": path.name if path.is_absolute() else facts["name"]}
