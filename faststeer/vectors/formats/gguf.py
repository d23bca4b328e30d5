"""GGUF control vectors, as llama.cpp and repeng read and write them.

Keys: ``general.architecture`` = "controlvector", ``controlvector.model_hint`` (the model's type),
``controlvector.layer_count`` (the number of directions). Tensors ``direction.N``: float32 ``[H]``,
all of one size. Our files have two more keys, which other programs ignore: ``general.name`` and
``faststeer.metadata``, JSON. `faststeer.vectors.formats.gguf_keys` has other programs' keys.

Place and sign: ``direction.N``, times the user's scale, is added to the output of 0-based block
N: it is layer N at ``resid_post``. llama.cpp (`llama_control_vector_load_one` in
common/common.cpp, and the graph's ``l_out``) and repeng (`ControlVector.export_gguf`,
`import_gguf`) agree on that.

llama.cpp's own cvector-generator, however, writes what it read at the output of block N under
``direction.N+1`` (tools/cvector-generator: mean.hpp and pca.hpp), so llama.cpp adds it one block
later than it was read. `decode(shift=True)` puts such a file's directions where they were read. Its
PCA may point either way; its means point to the positive prompts.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.formats.gguf_header import ARCHITECTURE, check_header
from faststeer.vectors.formats.gguf_keys import METADATA, model_hint, stated
from faststeer.vectors.formats.vector_data import VectorData, block_outputs, metadata_from_json

_TENSOR_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")


def encode(vector: VectorData) -> bytes:
    """Return the content of a file for llama.cpp and repeng.

    The output of block 0 is left out with a warning: llama.cpp rejects a whole file for
    ``direction.0``.

    Raises:
        ValueError: the vector steers block 0 alone, or a site that is no block's output.
        ModuleNotFoundError: the package gguf is missing.
    """
    directions = block_outputs(vector, "GGUF", stacklevel=5)
    if 0 in directions:
        _leave_out_block_0(vector, directions)
    gguf = _package()
    metadata = json.dumps(dict(vector.metadata))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(file, ARCHITECTURE)
        writer.add_string("general.name", vector.name)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint(vector.metadata))
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        writer.add_string(METADATA, metadata)
        for layer, direction in directions.items():
            writer.add_tensor(f"direction.{layer}", direction.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def decode(file: Path, shift: bool) -> VectorData:
    """Read a control vector.

    Args:
        file: the file.
        shift: it is from llama.cpp's cvector-generator (see the module's docstring).

    Raises:
        ValueError: the file is truncated, no control vector, not float32 directions of one size,
            or has a key that may give them another meaning than an addition.
        ModuleNotFoundError: the package gguf is missing.
    """
    check_header(file)
    gguf = _package()
    try:
        reader = gguf.GGUFReader(file)
        keys = {key: field.contents() for key, field in reader.fields.items()}
        name, hint, facts = (
            _text(keys, key) for key in ("general.name", f"{ARCHITECTURE}.model_hint", METADATA)
        )
    except (ValueError, LookupError, ArithmeticError, TypeError) as error:
        raise ValueError(f"not a readable GGUF file ({error}); is it truncated?") from error
    try:
        directions = _directions(reader.tensors, file.stat().st_size, -1 if shift else 0)
        site, foreign = stated(keys, _unit_norms(directions))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    metadata = metadata_from_json(facts or "{}", METADATA)
    if hint and hint != model_hint(metadata):
        metadata["model_type"] = hint
    return VectorData(name or file.stem, directions, site, foreign | metadata)


def _leave_out_block_0(vector: VectorData, directions: dict[int, Tensor]) -> None:
    why = (
        f"vector {vector.name!r} steers the output of block 0, and llama.cpp rejects a whole file "
        "that has a direction.0"
    )
    if len(directions) == 1:
        raise ValueError(f"{why}; save it as .safetensors")
    del directions[0]
    warnings.warn(f"{why}: it is left out", FaststeerWarning, stacklevel=5)


def _directions(tensors: Any, size: int, shift: int) -> dict[int, Tensor]:
    """Check and copy the tensors. They may overlap, so their sum is held to the file's size."""
    if sum(int(tensor.n_bytes) for tensor in tensors) > size:
        raise ValueError("its tensors are larger than the file")
    directions = {}
    for tensor in tensors:
        match = _TENSOR_NAME.fullmatch(tensor.name)
        if match is None:
            raise ValueError(f"unexpected tensor {tensor.name!r}; expected direction.<layer>")
        if tensor.tensor_type.name != "F32":
            raise ValueError(f"tensor {tensor.name!r} is {tensor.tensor_type.name}; expected F32")
        layer = int(match[1]) + shift
        if layer < 0:
            raise ValueError(
                "it has a direction.0, so llama.cpp's cvector-generator did not write it, and it "
                "cannot be shifted"
            )
        directions[layer] = torch.tensor(tensor.data, dtype=torch.float32)
    return directions


def _unit_norms(directions: dict[int, Tensor]) -> bool:
    return all(abs(float(own.norm()) - 1) < 1e-3 for own in directions.values())


def _text(keys: dict[str, Any], key: str) -> str | None:
    value = keys.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is not a text")
    return value


def _package() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        if error.name != "gguf":  # it is installed, but a dependency of it is missing
            raise
        raise ModuleNotFoundError(
            "GGUF files need the package gguf: pip install 'faststeer[gguf]'", name="gguf"
        ) from error
    return gguf
