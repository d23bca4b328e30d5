"""The .svec of IBM's activation-steering (Lee et al. 2024, arXiv 2409.05907): JSON.

``model_type``, ``directions`` {layer: [H numbers]} and ``explained_variances`` {layer: number},
the layers 0-based. A direction is read at block N's output (``hidden_states[N + 1]``) and added to
block N's input, one block earlier (leash_layer.py). So it becomes layer N at ``resid_pre``, and
steers as it does there. The last layer's direction was read after the final norm, as
``hidden_states[-1]`` is. (activation_steering/steering_vector.py at
github.com/IBM/activation-steering.)

AISteer360 uses the same suffix for its own files: ``[K, H]`` for each layer, which may be a vector
per token, a basis or a direction per head. They are refused by name.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststeer.utils.text_files import read_utf8
from faststeer.vectors.formats.vector_data import VectorData

_KEYS = {"model_type", "directions", "explained_variances"}
_OF_AISTEER360 = {"num_heads", "head_dim", "probe_accuracies", "meta"}
_LAYER = re.compile(r"0|[1-9][0-9]{0,5}")
_MAX_BYTES = 1 << 28  # a hundred layers of 16,384 numbers are an eighth of it


def is_json_object(start: bytes) -> bool:
    """Whether a file with these first bytes may be a JSON object: binary headers contain zeros."""
    return start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{" and b"\0" not in start


def decode(file: Path) -> VectorData:
    """Read a ``.svec`` file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not JSON, another program's, or has directions that are not ``[H]``.
    """
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file.stat().st_size:,} bytes of JSON; at most {_MAX_BYTES:,}")
    try:
        content = json.loads(read_utf8(file, "a vector's file"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"not a vector's file: no readable .svec ({error}), and no other format"
        ) from error
    _require_known(content)
    directions = {}
    for layer, numbers in content["directions"].items():
        if _LAYER.fullmatch(layer) is None:
            raise ValueError(f"layer {layer[:20]!r}; expected a number from 0")
        directions[int(layer)] = _direction(f"layer {layer}", numbers)
    metadata = {
        "model_type": content["model_type"],
        "explained_variances": content["explained_variances"],
        "read_at": "resid_post",
    }
    return VectorData(file.stem, directions, "resid_pre", metadata)


def _require_known(content: Any) -> None:
    keys = set(content) if isinstance(content, dict) else set()
    if keys & _OF_AISTEER360 and "directions" in keys:
        raise ValueError(_aisteer360(sorted(keys & _OF_AISTEER360)[0]))
    if keys != _KEYS:
        shown = ", ".join(sorted(keys))[:100] or "no keys"
        raise ValueError(
            f"JSON, but no vector of IBM's activation-steering: it has {shown}; expected "
            f"{', '.join(sorted(_KEYS))}"
        )
    kinds = {"model_type": str, "directions": dict, "explained_variances": dict}
    for key, kind in kinds.items():
        if not isinstance(content[key], kind):
            found = type(content[key]).__name__
            raise ValueError(f"{key} is a {found}; expected a {kind.__name__}")


def _direction(where: str, numbers: Any) -> Tensor:
    if isinstance(numbers, list) and numbers and isinstance(numbers[0], list):
        raise ValueError(f"{where}: {_aisteer360('[K, H]')}")
    if not isinstance(numbers, list) or any(type(own) not in (int, float) for own in numbers):
        raise ValueError(f"{where}: expected a list of numbers [H]")
    try:
        return torch.tensor(numbers, dtype=torch.float32)
    except (OverflowError, RuntimeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _aisteer360(what: str) -> str:
    return (
        f"has {what}, as AISteer360 writes it: the file does not state what a row is or where it "
        "is added; make a SteeringVector(name, {layer: row}, site) of the rows that you mean"
    )
