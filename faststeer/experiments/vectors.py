"""Behaviours' vectors, kept as files and reused where model and pairs are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from faststeer.evaluate.provenance import data_hash
from faststeer.extraction.extract import extract
from faststeer.extraction.read_token import as_metadata
from faststeer.steering.positions import Positions
from faststeer.vectors.steering_vector import SteeringVector


class WithPairs(Protocol):
    """Something that a vector is made for."""

    @property
    def name(self) -> str:
        """The vector's name."""

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """The pairs that it is made from."""


def make_vectors(
    model: nn.Module,
    tokenizer: Any,
    behaviours: Sequence[WithPairs],
    layers: Sequence[int],
    folder: Path,
    model_facts: Mapping[str, Any],
    batch_size: int,
    progress: bool,
    read_token: int | Positions = -1,
    keep_sinks: bool = False,
) -> dict[str, SteeringVector]:
    """Return a vector per behaviour: the mean difference of its pairs at their read token.

    They are saved in `folder`; one that is there is reused if it was made from the same pairs, by
    the same model, at the same layers.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for own in behaviours:
        path = folder / f"{own.name}.safetensors"
        made_from = {
            "pairs_sha256": data_hash([list(pair) for pair in own.pairs]),
            "model_sha256": model_facts["sha256"],
            "read_token": as_metadata(read_token),
        }
        vector = _saved(path, layers, made_from)
        if vector is None:
            fresh = extract(
                model,
                tokenizer,
                own.pairs,
                name=own.name,
                layers=layers,
                read_token=read_token,
                keep_sinks=keep_sinks,
                batch_size=batch_size,
                progress=progress,
            )
            facts = {**fresh.metadata, **made_from, "model": model_facts["name"]}
            template = getattr(own, "template", None)  # of questions in a chat format
            facts |= {} if template is None else {"template": template}
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
