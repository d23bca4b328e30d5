"""Provenance of results: versions, and hashes of models, vectors and data."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.models.fingerprint import weights_sha256
from faststeer.utils.version import VERSION
from faststeer.vectors.steering_vector import SteeringVector


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the numbers."""
    return {
        "faststeer": VERSION,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def data_hash(data: Any) -> str:
    """Return the SHA-256 of texts, in lists and tuples, serialised as JSON."""
    return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()


def vector_hash(vector: SteeringVector) -> str:
    """Return the SHA-256 of a vector's site, directions, and stated mode, bounds and positions."""
    digest = hashlib.sha256(vector.site.encode())
    for key in ("mode", "floor", "ceiling", "positions"):
        if key in vector.metadata:
            digest.update(f"{key}={vector.metadata[key]}".encode())
    for layer, direction in vector.directions.items():
        digest.update(str(layer).encode())
        digest.update(_bytes(direction))
    return digest.hexdigest()


def model_facts(model: nn.Module) -> dict[str, Any]:
    """Return name, dtype, number of parameters and SHA-256 of a model.

    The hash covers each parameter's name and first 1,024 elements.
    """
    config: Mapping[str, Any] | Any = model.config
    return {
        "name": getattr(config, "_name_or_path", "") or type(model).__name__,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": weights_sha256(model),
    }


def shown_model_facts(model: nn.Module) -> dict[str, Any]:
    """Return `model_facts`; a model from a folder has the folder's name, without its path."""
    facts = model_facts(model)
    path = Path(facts["name"])
    return {**facts, "name": path.name if path.is_absolute() else facts["name"]}


def _bytes(values: Tensor) -> bytes:
    content: bytes = values.contiguous().numpy().tobytes()
    return content
