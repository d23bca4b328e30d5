"""The files of CAA (Rimsky et al. 2024, arXiv 2312.06681): one bare tensor per layer.

``vec_layer_{L}_{model}.pt`` holds one tensor ``[H]`` and nothing else. L is the 0-based decoder
block, the model is the last part of its name on the hub. The tensor is the mean of positive minus
negative at the block's output, and its multiple is added there too: layer L at ``resid_post``.
(CAA's generate_vectors.py, behaviors.py and llama_wrapper.py at github.com/nrimsky/CAA.)
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from torch import Tensor

from faststeer.vectors.formats.pt_file import checked_tensor, load_plain
from faststeer.vectors.formats.vector_data import VectorData, block_outputs

_NAME = re.compile(r"vec_layer_(0|[1-9][0-9]{0,5})(?:_(.+))?\.pt", re.DOTALL)
_FORM = "vec_layer_{layer}_{model}.pt"


def encode(vector: VectorData, path: Path) -> dict[Path, bytes]:
    """Return the content of one file whose name states its layer, or of a file per layer.

    Files in a folder are named after ``metadata["model"]``.

    Raises:
        ValueError: a file for several layers, a name that does not state the layer or states
            another, or a site that is no block's output.
    """
    directions = block_outputs(vector, "CAA's format", stacklevel=5)
    if path.is_dir():
        name = str(vector.metadata.get("model", "")).rstrip("/").rpartition("/")[-1]
        model = name or "model"  # a name that ends in _.pt is not one of CAA's
        return {path / f"vec_layer_{n}_{model}.pt": _bytes(d) for n, d in directions.items()}
    if len(directions) != 1:
        raise ValueError(
            f"CAA's .pt holds a single layer, vector {vector.name!r} has {list(directions)}; give "
            "an existing folder for one file per layer, or choose a layer"
        )
    ((layer, direction),) = directions.items()
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[1]) != layer:
        raise ValueError(
            f"only the name of CAA's .pt states its layer; name it vec_layer_{layer}.pt or "
            f"vec_layer_{layer}_MODEL.pt"
        )
    return {path: _bytes(direction)}


def decode_folder(folder: Path, model: str | None) -> VectorData:
    """Read all ``vec_layer_{L}_{model}.pt`` of a folder as one vector, named after the folder.

    Args:
        folder: CAA's ``vectors/{behaviour}``, for instance.
        model: whose files to read, where the folder has those of several models.

    Raises:
        ValueError: no such files, files of several models and none chosen, or an invalid file.
    """
    found: dict[str | None, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match is not None and file.is_file():
            found.setdefault(match[2], {})[int(match[1])] = file
    if model is not None:
        found = {own: files for own, files in found.items() if own == model}
    if not found:
        _refuse_others(folder)
        wanted = _FORM if model is None else _FORM.format(layer="*", model=model)
        raise ValueError(f"a folder without a file {wanted}")
    if len(found) > 1:
        raise ValueError(
            f"has vectors of several models: {sorted(map(str, found))}; choose one with "
            "SteeringVector.load(folder, model=...)"
        )
    ((own, files),) = found.items()
    directions = {layer: _direction(file) for layer, file in files.items()}
    return _vector(folder.resolve().name, directions, own)


def decode(file: Path, tensor: Tensor, layer: int | None) -> VectorData:
    """Return the vector of a file that held a bare tensor.

    Args:
        file: the file; its name may state the layer.
        tensor: ``[H]``.
        layer: its layer, for a name that does not state it.

    Raises:
        ValueError: the layer is unknown, or stated twice and not the same.
    """
    match = _NAME.fullmatch(file.name)
    if match is None:
        if layer is None:
            raise ValueError(
                f"holds a bare tensor, and its name does not state the layer ({_FORM}); give it: "
                "load(path, layer=13), or --layer 13"
            )
        return _vector(file.stem, {layer: checked_tensor(file, tensor, 1)}, None)
    if layer not in (None, int(match[1])):
        raise ValueError(f"is of layer {match[1]} by its name, not of layer {layer}")
    return _vector(file.stem, {int(match[1]): checked_tensor(file, tensor, 1)}, match[2])


def _refuse_others(folder: Path) -> None:
    """Raise ValueError for the folders of other programs that hold more than a vector to add."""
    if all((folder / name).is_file() for name in ("h1.gguf", "h2.gguf")):
        raise ValueError(
            "EasySteer's concept pair, which replaces one direction by another; that is not "
            "supported (each of h1.gguf and h2.gguf can be loaded alone)"
        )
    if any(folder.glob("*.bin")) and any(
        (folder / name).is_file() for name in ("reft_config.json", "config.json")
    ):
        raise ValueError("a pyreft checkpoint, a learned map; that is not supported")


def _direction(file: Path) -> Tensor:
    """Read one file of a folder. The folder is named by the caller, the file here."""
    try:
        return checked_tensor(file, load_plain(file), 1)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _vector(name: str, directions: dict[int, Tensor], model: str | None) -> VectorData:
    return VectorData(name, directions, "resid_post", {} if model is None else {"model": model})


def _bytes(direction: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(direction.clone(), buffer)
    return buffer.getvalue()
