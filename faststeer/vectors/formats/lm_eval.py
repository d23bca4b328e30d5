"""The .pt of lm-evaluation-harness's model "steered".

A dict: hookpoint -> ``steering_vector`` (a tensor ``[H]``), ``steering_coefficient``, ``action``,
``bias``. Hookpoints are modules inside the decoder: ``layers.L``, or ``h.L`` of GPT-2's kind, is
0-based block L. Coefficient times vector is added to its output at every position: layer L at
``resid_post``; the bias then has no part in it. The other action, "clamp", sets the projection on
the vector to the coefficient: a use, with a value for each layer, which a vector does not hold.
(lm_eval/models/hf_steered.py, 0.4.13. Early versions add the last entry's vector at every
hookpoint.)
"""

from __future__ import annotations

import io
import re
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststeer.utils.files import write_whole
from faststeer.vectors.formats.caa import direction_in
from faststeer.vectors.formats.vector_data import block_outputs
from faststeer.vectors.steering_vector import SteeringVector

_HOOKPOINT = re.compile(r"(?:layers|h)\.(0|[1-9][0-9]{0,5})")
_KEYS = {"steering_vector", "steering_coefficient", "action", "bias", "head_index"}
_FACTS = {"hookpoint", "description", "loader", "sparse_model", "feature_index", "sae_id"}


def save(vector: SteeringVector, path: str | PathLike[str]) -> None:
    """Write `vector` for ``lm_eval --model steered --model_args steer_path=...``, coefficient 1.

    Raises:
        ValueError: a site that is no block's output.
    """
    content = {
        f"layers.{layer}": {
            "steering_vector": direction.clone(),
            "steering_coefficient": 1.0,
            "action": "add",
            "bias": None,
        }
        for layer, direction in block_outputs(vector, "lm-eval's format").items()
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def from_dict(file: Path, content: dict[Any, Any]) -> SteeringVector:
    """The vector of a file that held such a dict, coefficients multiplied in.

    Raises:
        ValueError: another hookpoint or action, one head only, or an entry that is not as above.
    """
    directions: dict[int, Tensor] = {}
    size = 0
    for hookpoint, entry in content.items():
        match = _HOOKPOINT.fullmatch(hookpoint) if isinstance(hookpoint, str) else None
        if match is None:
            shown = hookpoint[:100] if isinstance(hookpoint, str) else type(hookpoint).__name__
            raise ValueError(
                f"{file}: hookpoint {shown!r}; only a block's output can be steered: "
                "layers.<number> or h.<number>"
            )
        layer, coefficient = int(match[1]), _coefficient(f"{file}: {hookpoint}", entry)
        if layer in directions:
            raise ValueError(f"{file}: two hookpoints are block {layer}")
        direction = direction_in(file, entry.get("steering_vector"))
        size += direction.numel() * direction.element_size()
        if size > file.stat().st_size:  # they may lie over each other
            raise ValueError(f"{file}: its tensors are larger than the file")
        directions[layer] = direction.to(torch.float32) * float(coefficient)
    try:
        return SteeringVector(file.stem, directions)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _coefficient(where: str, entry: Any) -> float:
    """Return the coefficient of an entry that is a direction to add."""
    if not isinstance(entry, dict) or not entry.keys() >= {"action", "steering_coefficient"}:
        raise ValueError(f"{where}: expected a dict with action and steering_coefficient")
    coefficient = entry["steering_coefficient"]
    if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float)):
        raise ValueError(f"{where}: steering_coefficient is not a number")
    action = str(entry["action"])[:60]
    if action == "clamp":
        raise ValueError(
            f"{where}: action 'clamp' sets a projection instead of adding; steer with "
            "SteeringVector(name, {layer: steering_vector}), coefficient "
            f"{coefficient} and mode='clamp'"
        )
    if action != "add":
        raise ValueError(f"{where}: action {action!r} is unknown; expected 'add'")
    if entry.get("head_index") is not None:
        raise ValueError(f"{where}: steers a single head (head_index), which is not supported")
    unknown = [str(key)[:60] for key in entry if key not in _KEYS | _FACTS]
    if unknown:
        raise ValueError(f"{where}: key {unknown[0]!r} is not known; expected {sorted(_KEYS)}")
    return float(coefficient)
