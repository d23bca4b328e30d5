"""The experiment as a whole: from traits to the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.data.trait_files import OpenPrompt, Trait
from faststeer.evaluate.provenance import data_hash, shown_model_facts, vector_hash, versions
from faststeer.evaluate.tasks import DocumentsTask, Subject
from faststeer.evaluate.trait_tasks import TraitsTask
from faststeer.experiments.estimates import TEXT
from faststeer.experiments.measure import Recorder
from faststeer.experiments.result import RECORDS, Result
from faststeer.experiments.traits.choosing import Choosing
from faststeer.experiments.traits.judge import TraitJudge, require_judge
from faststeer.experiments.traits.measurements import Measurements
from faststeer.experiments.traits.protocol import Protocol
from faststeer.experiments.traits.sections import sections
from faststeer.experiments.traits.vectors import orthogonalised
from faststeer.experiments.vectors import make_vectors
from faststeer.patching.patch import temporarily_patched
from faststeer.utils.plot_style import require_matplotlib
from faststeer.vectors.arguments import chosen_layers

VECTORS = "vectors"
# The mean of a sentence: a trait is all over it, and less of it is left at its full stop. Without
# the first token, whose huge activations are the same in every text.
_READ = slice(1, None)


def several_traits(
    model: nn.Module,
    tokenizer: Any,
    traits: Sequence[Trait],
    texts: Sequence[str],
    output: Path,
    *,
    protocol: Protocol,
    text_source: str,
    layers: str | Sequence[int] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Result:
    """Steer several traits, alone and together, and measure them.

    Writes ``outcome.json``, ``figures/``, ``records/`` and ``vectors/`` into `output`. An
    interrupted run resumes from there. Two runs write the same bytes.

    Args:
        model: a model that `patch` accepts; it is restored afterwards.
        tokenizer: its tokenizer.
        traits: at least two, of different names.
        texts: general text, at least two; every other one is kept for the test.
        output: a folder, created if it is missing.
        protocol: the sizes of the experiment.
        text_source: a description of the texts.
        layers: those of this model at which vectors are tried, in place of the protocol's; at least
            as many as traits.
        batch_size: texts per forward pass.
        progress: show progress bars.

    Raises:
        OSError: the folder cannot be written.
        ValueError: fewer than two traits, two of one name, prompts that the tokenizer does not
            separate from their continuations, too few texts or layers, or a folder with the records
            of another run.
    """
    require_matplotlib()
    require_judge()
    names = [trait.name for trait in traits]
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"traits {', '.join(names)}: expected at least two, of different names; the experiment "
            "measures how they combine"
        )
    if len(texts) < 2:
        raise ValueError(f"got {len(texts)} general texts; expected at least two")
    facts = shown_model_facts(model)
    shorter = [_shortened(trait, protocol.items, protocol.pairs) for trait in traits]
    with temporarily_patched(model) as patched:
        tried = _layers(protocol, layers, patched.num_layers, len(traits))
        subject = Subject(patched, model, tokenizer, batch_size)
        _require_measurable(subject, shorter, texts, protocol)
        (output / RECORDS).mkdir(parents=True, exist_ok=True)
        with patched.off():
            own = make_vectors(
                model,
                tokenizer,
                traits,
                tried,
                output / VECTORS,
                facts,
                batch_size,
                progress,
                _READ,
            )
            middle = patched.num_layers // 2
            judge = TraitJudge.trained(model, tokenizer, shorter, middle, batch_size)
        vectors = [*own.values(), *orthogonalised(own)]
        common = {"experiment": "traits", "model": facts}
        recorder = Recorder(subject, output / RECORDS, common, progress)
        measure = partial(recorder.measure, vectors=vectors)
        choosing = Choosing(protocol, shorter, texts[0::2], measure)
        results = Measurements(
            protocol, shorter, tried, own, measure, recorder, texts[1::2], judge, choosing
        ).all()
    made_with = {
        "model": facts,
        "versions": versions(),
        "protocol": vars(protocol),
        "layers": tried,
        "traits": {trait.name: _trait_facts(trait) for trait in shorter},
        TEXT: {"source": text_source, "texts": len(texts), "sha256": data_hash(list(texts))},
        "vectors": {vector.name: vector_hash(vector) for vector in vectors},
    }
    title = f"Several traits, alone and together ({facts['name']})"
    result = Result("behaviours", title, made_with, sections(results))
    result.write(output)
    return result


def _shortened(trait: Trait, items: int | None, pairs: int | None) -> Trait:
    """Return the trait with so many prompts per part and so many pairs, None for all.

    Prompts are taken evenly, since those of one template stand together.
    """

    def some(prompts: Sequence[OpenPrompt]) -> Sequence[OpenPrompt]:
        if items is None or items >= len(prompts):
            return prompts
        return [prompts[number * len(prompts) // items] for number in range(items)]

    return replace(
        trait,
        pairs=trait.pairs[:pairs],
        validation=some(trait.validation),
        test=some(trait.test),
    )


def _layers(
    protocol: Protocol, given: str | Sequence[int] | None, depth: int, traits: int
) -> list[int]:
    """Return the layers at which vectors are tried: as many as traits at least, or ValueError."""
    if given is not None:
        found = chosen_layers(given, depth)
    else:
        found = sorted({min(depth - 1, round(share * depth)) for share in protocol.depths})
        if len(found) < traits:  # as many side by side around their middle
            first = max(0, min(depth - traits, (found[0] + found[-1] + 1 - traits) // 2))
            found = list(range(first, min(depth, first + traits)))
    if len(found) < traits:
        raise ValueError(
            f"{len(found)} layers are too few for {traits} traits, each of which steers at a layer "
            "of its own"
        )
    return found


def _require_measurable(
    subject: Subject, traits: Sequence[Trait], texts: Sequence[str], protocol: Protocol
) -> None:
    """Raise ValueError, before any long work, for prompts or texts that the model cannot take."""
    for part in ("validation", "test"):
        try:
            TraitsTask({trait.name: getattr(trait, part) for trait in traits}).check(subject)
        except ValueError as error:
            raise ValueError(f"{part} part of {error}") from None
    DocumentsTask({TEXT: texts}, TEXT, protocol.text_tokens).check(subject)


def _trait_facts(trait: Trait) -> Mapping[str, Any]:
    parts = {"pairs": trait.pairs, "validation": trait.validation, "test": trait.test}
    return {
        part: {"items": len(own), "sha256": data_hash([list(item) for item in own])}
        for part, own in parts.items()
    }
