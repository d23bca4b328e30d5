"""The native format: a safetensors file with one tensor per layer and the rest in its header.

Tensors are named ``direction.<layer>``, float32 ``[H]``. The header's metadata holds ``format``,
``format_version``, ``name``, ``site``, and ``metadata`` as JSON (docs/vectors.md lists its keys).
All of them are required, and no other is accepted: a missing site is not taken for ``resid_post``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, float32

from faststeer.vectors.formats.vector_data import VectorData, metadata_from_json

FORMAT = "faststeer"
FORMAT_VERSION = "1"
_HEADER = ("format", "format_version", "name", "site", "metadata")
_TENSOR_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")


def encode(vector: VectorData) -> bytes:
    """Return the content of a vector's native file. Raises TypeError for metadata beyond JSON."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": vector.name,
        "site": vector.site,
        "metadata": json.dumps(dict(vector.metadata)),
    }
    tensors = {f"direction.{layer}": d for layer, d in vector.directions.items()}
    return _with_sorted_header(to_bytes(tensors, header))


def decode(file: Path) -> VectorData:
    """Read what `encode` returned.

    Raises:
        ValueError: the file is truncated, no safetensors file, or not a faststeer vector.
    """
    try:
        with safe_open(os.fspath(file), framework="pt") as opened:
            header = opened.metadata() or {}
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"not a readable safetensors file ({error}); it may be truncated"
        ) from error
    _require_header(header)
    metadata = metadata_from_json(header["metadata"], "metadata")
    return VectorData(header["name"], _directions(tensors), header["site"], metadata)


def _with_sorted_header(content: bytes) -> bytes:
    """Sort the header's metadata: safetensors writes them in another order each time."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = dict(sorted(header.pop("__metadata__").items()))
    ordered = json.dumps({"__metadata__": metadata, **header}, ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)  # tensors are aligned
    return len(ordered).to_bytes(8, "little") + ordered + content[start:]


def _require_header(header: dict[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise ValueError(
            "a safetensors file, but no faststeer vector: its header's 'format' is "
            f"{header.get('format')!r}, expected {FORMAT!r}"
        )
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"format version {header.get('format_version')!r}; this faststeer reads version "
            f"{FORMAT_VERSION}. Upgrade faststeer"
        )
    missing = [key for key in _HEADER if key not in header]
    unknown = [key for key in header if key not in _HEADER]
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown {unknown[0][:60]!r}"
        raise ValueError(f"its header {what}; expected {', '.join(_HEADER)}")


def _directions(tensors: dict[str, Tensor]) -> dict[int, Tensor]:
    directions = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"unexpected tensor {name!r}; expected direction.<layer>")
        if tensor.dtype != float32:
            raise ValueError(f"tensor {name!r} is {tensor.dtype}; expected torch.float32")
        directions[int(match[1])] = tensor
    return directions
