"""The native file: safetensors, one tensor per layer, facts in the header.

Tensors are named ``direction.<layer>``, float32 ``[H]``. The header's metadata holds ``format``,
``format_version``, ``name``, ``site``, and ``metadata`` as JSON (docs/vectors.md lists its keys).
Each of them is there, and no other: a missing site is not taken for ``resid_post``.
"""

from __future__ import annotations

import json
import os
import re
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, float32

from faststeer.utils.files import write_whole
from faststeer.vectors.steering_vector import SteeringVector

FORMAT = "faststeer"
FORMAT_VERSION = "1"
_HEADER = ("format", "format_version", "name", "site", "metadata")
_TENSOR_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")


def save(vector: SteeringVector, path: str | PathLike[str]) -> None:
    """Write `vector` to `path`, whole or not at all."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": vector.name,
        "site": vector.site,
        "metadata": json.dumps(dict(vector.metadata)),
    }
    tensors = {f"direction.{layer}": d for layer, d in vector.directions.items()}
    write_whole(path, _in_order(to_bytes(tensors, header)))


def load(path: str | PathLike[str]) -> SteeringVector:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no safetensors file, or not a faststeer vector.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        with safe_open(os.fspath(file), framework="pt") as opened:
            header = opened.metadata() or {}
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{file}: not a readable safetensors file ({error}); it may be truncated"
        ) from error
    return _vector(file, header, tensors)


def _in_order(content: bytes) -> bytes:
    """With the header's metadata in order: safetensors puts them down anew each time."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = dict(sorted(header.pop("__metadata__").items()))
    told = json.dumps({"__metadata__": metadata, **header}, ensure_ascii=False).encode()
    told += b" " * (-len(told) % 8)  # tensors are aligned
    return len(told).to_bytes(8, "little") + told + content[start:]


def _vector(file: Path, header: dict[str, str], tensors: dict[str, Tensor]) -> SteeringVector:
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{file}: a safetensors file, but no faststeer vector: its header's 'format' is "
            f"{header.get('format')!r}, expected {FORMAT!r}"
        )
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file}: format version {header.get('format_version')!r}; this faststeer reads "
            f"version {FORMAT_VERSION}. Upgrade faststeer"
        )
    missing = [key for key in _HEADER if key not in header]
    unknown = [key for key in header if key not in _HEADER]
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown {unknown[0][:60]!r}"
        raise ValueError(f"{file}: its header {what}; expected {', '.join(_HEADER)}")
    directions = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{file}: unexpected tensor {name!r}; expected direction.<layer>")
        if tensor.dtype != float32:
            raise ValueError(f"{file}: tensor {name!r} is {tensor.dtype}; expected torch.float32")
        directions[int(match[1])] = tensor
    try:
        metadata: Any = json.loads(header["metadata"])
        if not isinstance(metadata, dict):
            raise TypeError(f"metadata is a {type(metadata).__name__}, expected an object")
        return SteeringVector(header["name"], directions, header["site"], metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from error
