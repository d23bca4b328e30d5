"""The behaviours' vectors: made once, kept as files, and taken up again where they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from faststeer.evaluate.provenance import data_hash
from faststeer.experiments.several.asked import Asked
from faststeer.extraction.extract import extract
from faststeer.vectors.steering_vector import SteeringVector


def made(
    model: nn.Module,
    tokenizer: Any,
    asked: Sequence[Asked],
    layers: Sequence[int],
    folder: Path,
    model_facts: Mapping[str, Any],
    batch_size: int,
    shown: bool,
) -> dict[str, SteeringVector]:
    """A vector for each behaviour: the mean difference of its training pairs' last tokens.

    Kept in `folder`; one that is there is taken if it was made of the same pairs, by the same
    model, at the same layers.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for own in asked:
        path = folder / f"{own.name}.safetensors"
        made_from = {
            "pairs_sha256": data_hash([list(pair) for pair in own.pairs]),
            "model_sha256": model_facts["sha256"],
        }
        vector = _kept(path, layers, made_from)
        if vector is None:
            fresh = extract(
                model,
                tokenizer,
                own.pairs,
                name=own.name,
                layers=layers,
                batch_size=batch_size,
                progress=shown,
            )
            facts = {**fresh.metadata, **made_from, "model": model_facts["name"]}
            vector = replace(fresh, metadata=facts)
            vector.save(path)
        vectors[own.name] = vector
    return vectors


def _kept(path: Path, layers: Sequence[int], made_from: Mapping[str, str]) -> SteeringVector | None:
    if not path.is_file():
        return None
    vector = SteeringVector.load(path)
    same = all(vector.metadata.get(name) == value for name, value in made_from.items())
    return vector if same and vector.layers == list(layers) else None
