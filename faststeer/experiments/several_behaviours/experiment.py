"""The experiment as a whole: from questions to the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.data.chat import ChatFormat
from faststeer.data.questions import chat_prompt
from faststeer.evaluate.provenance import data_hash, shown_model_facts, vector_hash, versions
from faststeer.evaluate.records import Setting
from faststeer.evaluate.sweeping import grid
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask, Subject
from faststeer.experiments.estimates import TEXT
from faststeer.experiments.generations import GenerationTask, open_prompts
from faststeer.experiments.measure import Measure, Recorder, independent
from faststeer.experiments.result import RECORDS, Result
from faststeer.experiments.settings import (
    DIRECTIONS,
    VARIANTS,
    Place,
    alone,
    at_once,
    combined,
)
from faststeer.experiments.several_behaviours.protocol import Layers, Protocol
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions, in_chat
from faststeer.experiments.several_behaviours.results import Results
from faststeer.experiments.several_behaviours.sections import sections
from faststeer.experiments.several_behaviours.tune_alone import tune
from faststeer.experiments.several_behaviours.tune_jointly import JointTuning
from faststeer.experiments.vectors import make_vectors
from faststeer.patching.patch import temporarily_patched
from faststeer.utils.plot_style import require_matplotlib
from faststeer.vectors.steering_vector import SteeringVector

VECTORS = "vectors"


def several_behaviours(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[BehaviourQuestions],
    texts: Sequence[str],
    output: Path,
    *,
    protocol: Protocol,
    text_source: str,
    layers: str | Sequence[int] | None = None,
    seed: int = 13,
    batch_size: int = 8,
    chat: bool = False,
    progress: bool = True,
) -> Result:
    """Steer several behaviours, alone and together, and measure them.

    Writes ``outcome.json``, ``figures/``, ``records/`` and ``vectors/`` into `output`. An
    interrupted run resumes from there. Two runs write the same bytes.

    Args:
        model: a model that `patch` accepts; it is restored afterwards.
        tokenizer: its tokenizer.
        questions: the behaviours' questions.
        texts: general text, at least two; every other one is kept for the test.
        output: a folder, created if it is missing.
        protocol: the sizes of the experiment.
        text_source: a description of the texts.
        layers: those of this model at which each vector is tried alone, in place of the protocol's.
        seed: that of the split of the questions, for the files.
        batch_size: texts per forward pass.
        chat: ask in the form of the tokenizer's chat template.
        progress: show progress bars.

    Raises:
        OSError: the folder cannot be written.
        ValueError: questions that the model cannot answer, too few texts, layers or coefficients
            that are invalid, or a folder with the records of another run.
    """
    require_matplotlib()
    if len(texts) < 2:
        raise ValueError(f"got {len(texts)} general texts; expected at least two")
    _require_both_signs(protocol.coefficients)
    names = [own.name for own in questions]
    facts = shown_model_facts(model)
    prompts = open_prompts(protocol.prompts)
    chat_format = ChatFormat(tokenizer) if chat else None
    if chat_format is not None:
        questions = in_chat(questions, chat_format)
        prompts = [chat_prompt(prompt, chat_format) for prompt in prompts]
    with temporarily_patched(model) as patched:
        if taken := set(names) & patched.plan.interventions.keys():
            raise ValueError(f"vectors named {sorted(taken)} steer the model already; rename them")
        places = Layers.of(protocol, names, patched.num_layers, layers)
        subject = Subject(patched, model, tokenizer, batch_size)
        _require_answerable(subject, questions, texts, protocol)
        (output / RECORDS).mkdir(parents=True, exist_ok=True)
        kept = output / VECTORS
        with patched.off():
            vectors = make_vectors(
                model, tokenizer, questions, places.needed, kept, facts, batch_size, progress
            )
        common = {"experiment": "behaviours", "model": facts, "seed": seed}
        recorder = Recorder(subject, output / RECORDS, common, progress)
        measure = partial(recorder.measure, vectors=list(vectors.values()))
        results = _measured(measure, protocol, places, questions, vectors, texts, prompts)
    made_with = {
        "model": facts,
        "versions": versions(),
        "seed": seed,
        "chat": None if chat_format is None else chat_format.digest,
        "protocol": vars(protocol),
        "layers": vars(places),
        "behaviours": {own.name: own.facts for own in questions},
        TEXT: {"source": text_source, "texts": len(texts), "sha256": data_hash(list(texts))},
        "vectors": {name: vector_hash(vector) for name, vector in vectors.items()},
    }
    title = f"Several behaviours, alone and together ({facts['name']})"
    result = Result("behaviours", title, made_with, sections(results))
    result.write(output)
    return result


def _measured(
    measure: Measure,
    protocol: Protocol,
    layers: Layers,
    questions: Sequence[BehaviourQuestions],
    vectors: Mapping[str, SteeringVector],
    texts: Sequence[str],
    prompts: Sequence[str],
) -> Results:
    """Choose coefficients on one part of the questions and texts, then test on the other."""
    choosing, testing = texts[0::2], texts[1::2]
    names = [own.name for own in questions]
    validation = {
        own.name: measure(
            f"validation-{own.name}",
            ChoicesTask(own.name, own.validation),
            grid([vectors[own.name]], layers.alone, protocol.coefficients),
        )
        for own in questions
    }
    tuned = tune(validation, layers.alone, protocol.coefficients)
    tuning = JointTuning(measure, questions, layers, protocol, choosing)
    whole = tuning.globally()
    jointly = tuning.jointly(whole)
    chosen = [at_once(layers.at_once, own) for own in (dict.fromkeys(names, whole), jointly)]
    globally = [at_once(layers.at_once, dict.fromkeys(names, c)) for c in protocol.at_once]

    def alone_at(name: str, places: Sequence[int]) -> list[Setting]:
        return [
            alone(name, layer, tuned[Place(name, layer, direction)])
            for layer in places
            for direction in DIRECTIONS
        ]

    singly = [setting for name in names for setting in alone_at(name, [layers.latest])]
    variants = [combined(one, layer, tuned) for layer in layers.tested for one in VARIANTS]
    together = [*singly, *variants, *globally, *chosen]
    test = {
        own.name: measure(
            f"test-{own.name}",
            ChoicesTask(own.name, own.test),
            independent([*alone_at(own.name, list(layers.tested)), *together]),
        )
        for own in questions
    }
    text = measure(
        f"test-{TEXT}",
        DocumentsTask({TEXT: testing}, TEXT, protocol.text_tokens),
        independent([*singly, *globally, *chosen]),
    )
    generations = measure(
        "continuations",
        GenerationTask(prompts, protocol.new_tokens),
        independent([*singly, *chosen]),
    )
    return Results(
        protocol, layers, questions, vectors, tuned, whole, jointly, test, text, generations
    )


def _require_both_signs(coefficients: Sequence[float]) -> None:
    if not any(c > 0 for c in coefficients) or not any(c < 0 for c in coefficients):
        raise ValueError(
            f"coefficients {list(coefficients)}: expected one above 0, to add a vector, and one "
            "below, to subtract it"
        )


def _require_answerable(
    subject: Subject,
    questions: Sequence[BehaviourQuestions],
    texts: Sequence[str],
    protocol: Protocol,
) -> None:
    """Raise ValueError, before any long work, for questions or texts that the model cannot take."""
    for own in questions:
        try:
            ChoicesTask(own.name, [*own.train, *own.validation, *own.test]).check(subject)
        except ValueError as error:
            raise ValueError(f"{own.name}: {error}") from None
    DocumentsTask({TEXT: texts}, TEXT, protocol.text_tokens).check(subject)
