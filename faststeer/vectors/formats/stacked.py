"""A .pt with one tensor ``[N, H]``, one row per layer, as persona vectors are stored.

Persona vectors (Chen et al. 2025, arXiv 2507.21509) are ``{trait}_response_avg_diff.pt``,
``_prompt_avg_diff`` and ``_prompt_last_diff``: means over transformers' ``hidden_states``, of shape
``[L + 1, H]`` for a model of L blocks (generate_vec.py). Row 0 is the embedding, row i + 1 the
output of block i, and row L is read after the final norm: no block's output. Their code adds
row i + 1 to the output of block i (activation_steer.py), so that is layer i at ``resid_post``.

Nothing in such a tensor distinguishes ``[L + 1, H]`` from ``[L, H]``: where the file's name does
not, the caller has to.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.formats.pt_file import checked_tensor
from faststeer.vectors.formats.vector_data import VectorData

ROWS = ("hidden_states", "layers")
_PERSONA = re.compile(r"(.+)_((?:prompt|response)_avg|prompt_last)_diff\.pt", re.DOTALL)
_MIN_STATES = 3  # hidden_states of a single block


def decode(file: Path, tensor: Tensor, layer: int | None, rows: str | None) -> VectorData:
    """Return the vector of a file that held ``[N, H]``.

    Args:
        file: the file; its name may state what the rows are.
        tensor: ``[N, H]``, floating point.
        layer: the only layer that is wanted, which has to be there.
        rows: "hidden_states": row 0 is the embedding and row i + 1 layer i's output, except for
            the last row, which is after the final norm. "layers": row i is layer i's output.

    Raises:
        ValueError: it is unknown what the rows are, or there is no row for the layer.
    """
    match = _PERSONA.fullmatch(file.name)
    if rows is None and match is None:
        raise ValueError(
            f"holds {tensor.shape[0]} rows, and its name does not state what they are; give "
            "rows='hidden_states' (row 0 is the embedding, row i + 1 the output of layer i, as in "
            "transformers' hidden_states and persona vectors) or rows='layers' (row i is the "
            "output of layer i): load(path, rows=...), or --rows"
        )
    checked_tensor(file, tensor, 2)
    of_states = rows != "layers"
    count = len(tensor) - 1 if of_states else len(tensor)
    if of_states and len(tensor) < _MIN_STATES:
        raise ValueError(f"{len(tensor)} rows; hidden_states have at least {_MIN_STATES}")
    outputs = range(count - 1) if of_states else range(count)
    if layer is not None and layer not in outputs:
        last = f"; row {count} is after the final norm" if of_states and layer == count - 1 else ""
        raise ValueError(
            f"no row is the output of layer {layer}; it has {outputs.start} to "
            f"{outputs.stop - 1}{last}"
        )
    if of_states and layer is None:
        warnings.warn(
            f"{file}: row 0 (the embedding) and row {count} (after the final norm) are no "
            f"layer's output; layers 0 to {count - 2} are rows 1 to {count - 1}",
            FaststeerWarning,
            stacklevel=4,
        )
    directions = {at: tensor[at + 1 if of_states else at] for at in outputs}
    metadata: dict[str, Any] = {"num_layers": count}
    if match is not None:
        metadata |= {"method": "mean_difference", "persona": f"{match[2]}_diff"}
    return VectorData(match[1] if match else file.stem, directions, "resid_post", metadata)
