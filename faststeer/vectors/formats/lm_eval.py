"""The .pt of lm-evaluation-harness's model "steered".

A dict: hookpoint -> ``steering_vector`` (a tensor ``[H]``), ``steering_coefficient``, ``action``,
``bias``. Hookpoints are modules inside the decoder: ``layers.L``, or ``h.L`` for GPT-2's family, is
0-based block L. Coefficient times vector is added to its output at every position: layer L at
``resid_post``; the bias is then unused. The other action, "clamp", sets the projection on the
vector to the coefficient: a use, with a value per layer, which a vector does not hold.
(lm_eval/models/hf_steered.py, 0.4.13. Early versions add the last entry's vector at every
hookpoint.)
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststeer.vectors.formats.pt_file import checked_tensor
from faststeer.vectors.formats.vector_data import VectorData, block_outputs

_HOOKPOINT = re.compile(r"(?:layers|h)\.(0|[1-9][0-9]{0,5})")
_KEYS = {"steering_vector", "steering_coefficient", "action", "bias", "head_index"}
_FACTS = {"hookpoint", "description", "loader", "sparse_model", "feature_index", "sae_id"}


def encode(vector: VectorData) -> bytes:
    """Return the content of a ``steer_path`` for ``lm_eval --model steered``, coefficient 1.

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
        for layer, direction in block_outputs(vector, "lm-eval's format", stacklevel=5).items()
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def decode(file: Path, content: dict[Any, Any]) -> VectorData:
    """Return the vector of a file that held such a dict, multiplied by its coefficients.

    Raises:
        ValueError: another hookpoint or action, a single head, or an entry of another form.
    """
    directions: dict[int, Tensor] = {}
    size = 0
    for hookpoint, entry in content.items():
        match = _HOOKPOINT.fullmatch(hookpoint) if isinstance(hookpoint, str) else None
        if match is None:
            shown = hookpoint[:100] if isinstance(hookpoint, str) else type(hookpoint).__name__
            raise ValueError(
                f"hookpoint {shown!r}; only a block's output can be steered: layers.<number> or "
                "h.<number>"
            )
        layer, coefficient = int(match[1]), _coefficient(hookpoint, entry)
        if layer in directions:
            raise ValueError(f"two hookpoints are block {layer}")
        direction = checked_tensor(file, entry.get("steering_vector"), 1)
        size += direction.numel() * direction.element_size()
        if size > file.stat().st_size:  # tensors may overlap
            raise ValueError("its tensors are larger than the file")
        directions[layer] = direction.to(torch.float32) * coefficient
    return VectorData(file.stem, directions, "resid_post", {})


def _coefficient(hookpoint: str, entry: Any) -> float:
    """Return the coefficient of an entry whose direction is to be added."""
    if not isinstance(entry, dict) or not entry.keys() >= {"action", "steering_coefficient"}:
        raise ValueError(f"{hookpoint}: expected a dict with action and steering_coefficient")
    coefficient = entry["steering_coefficient"]
    if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float)):
        raise ValueError(f"{hookpoint}: steering_coefficient is not a number")
    action = str(entry["action"])[:60]
    if action == "clamp":
        raise ValueError(
            f"{hookpoint}: action 'clamp' sets a projection instead of adding; steer with "
            "SteeringVector(name, {layer: steering_vector}), coefficient "
            f"{coefficient} and mode='clamp'"
        )
    if action != "add":
        raise ValueError(f"{hookpoint}: action {action!r} is unknown; expected 'add'")
    if entry.get("head_index") is not None:
        raise ValueError(f"{hookpoint}: steers a single head (head_index), which is not supported")
    unknown = [str(key)[:60] for key in entry if key not in _KEYS | _FACTS]
    if unknown:
        raise ValueError(f"{hookpoint}: key {unknown[0]!r} is not known; expected {sorted(_KEYS)}")
    return float(coefficient)
