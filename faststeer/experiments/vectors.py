"""The behaviours' vectors, kept as files and reused where model and pairs are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.evaluate.provenance import data_hash
from faststeer.experiments.several_behaviours.questions import BehaviourQuestions
from faststeer.extraction.extract import extract
from faststeer.vectors.steering_vector import SteeringVector


def make_vectors(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[BehaviourQuestions],
    layers: Sequence[int],
    folder: Path,
    model_facts: Mapping[str, Any],
    batch_size: int,
    progress: bool,
) -> dict[str, SteeringVector]:
    """Return a vector per behaviour: the mean difference of its training pairs' last tokens.

    They are saved in `folder`; one that is there is reused if it was made from the same pairs, by
    the same model, at the same layers.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for own in questions:
        path = folder / f"{own.name}.safetensors"
        made_from = {
            "pairs_sha256": data_hash([list(pair) for pair in own.pairs]),
            "model_sha256": model_facts["sha256"],
        }
        vector = _saved(path, layers, made_from)
        if vector is None:
            fresh = extract(
                model,
                tokenizer,
                own.pairs,
                name=own.name,
                layers=layers,
                batch_size=batch_size,
                progress=progress,
            )
            facts = {**fresh.metadata, **made_from, "model": model_facts["name"]}
            vector = replace(fresh, metadata=facts)
            vector.save(path)
        vectors[own.name] = vector
    return vectors


def _saved(
    path: Path, layers: Sequence[int], made_from: Mapping[str, str]
) -> SteeringVector | None:
    if not path.is_file():
        return None
    vector = SteeringVector.load(path)
    same = all(vector.metadata.get(name) == value for name, value in made_from.items())
    return vector if same and vector.layers == list(layers) else None
