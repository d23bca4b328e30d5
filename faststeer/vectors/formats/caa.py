"""The files of CAA (Rimsky et al. 2024, arXiv 2312.06681): a bare tensor for each layer.

``vec_layer_{L}_{model}.pt`` holds one tensor ``[H]`` and nothing else. L is the 0-based decoder
block, the model is the last part of its name on the hub. The tensor is the mean of positive minus
negative at the block's output, and its multiple is added there too: layer L at ``resid_post``.
(CAA's generate_vectors.py, behaviors.py and llama_wrapper.py at github.com/nrimsky/CAA.)
"""

from __future__ import annotations

import io
import re
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from faststeer.utils.files import write_whole
from faststeer.vectors.formats.pt_file import load_plain
from faststeer.vectors.formats.vector_data import block_outputs
from faststeer.vectors.steering_vector import SteeringVector

_NAME = re.compile(r"vec_layer_(0|[1-9][0-9]{0,5})(?:_(.+))?\.pt", re.DOTALL)
_FORM = "vec_layer_{layer}_{model}.pt"


def save(vector: SteeringVector, path: str | PathLike[str]) -> None:
    """Write one layer to a file whose name says so, or all layers to a folder that is there.

    Files of a folder are named after ``metadata["model"]``.

    Raises:
        ValueError: a file for several layers, a name that does not say the layer or says another,
            or a site that is no block's output.
    """
    target = Path(path)
    directions = block_outputs(vector, "CAA's format")
    if target.is_dir():
        name = str(vector.metadata.get("model", "")).rstrip("/").rpartition("/")[-1]
        model = name or "model"  # a name that ends in _.pt is none of CAA's
        for layer, direction in directions.items():
            write_whole(target / f"vec_layer_{layer}_{model}.pt", _bytes(direction))
        return
    if len(directions) != 1:
        raise ValueError(
            f"{target}: CAA's .pt holds a single layer, vector {vector.name!r} has "
            f"{list(directions)}; give an existing folder for a file each, or choose a layer"
        )
    ((layer, direction),) = directions.items()
    match = _NAME.fullmatch(target.name)
    if match is None or int(match[1]) != layer:
        raise ValueError(
            f"{target}: only the name of CAA's .pt says its layer; name it vec_layer_{layer}.pt "
            f"or vec_layer_{layer}_MODEL.pt"
        )
    write_whole(target, _bytes(direction))


def load_folder(folder: str | PathLike[str], model: str | None = None) -> SteeringVector:
    """All ``vec_layer_{L}_{model}.pt`` of a folder as one vector, named after the folder.

    Args:
        folder: CAA's ``vectors/{behaviour}``, for instance.
        model: which model's, where the folder has several.

    Raises:
        ValueError: no such files, files of several models and none chosen, or a file that is wrong.
    """
    place = Path(folder)
    found: dict[str | None, dict[int, Path]] = {}
    for file in sorted(place.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match is not None and file.is_file():
            found.setdefault(match[2], {})[int(match[1])] = file
    if model is not None:
        found = {own: files for own, files in found.items() if own == model}
    if not found:
        _refuse_others(place)
        wanted = _FORM if model is None else _FORM.format(layer="*", model=model)
        raise ValueError(f"{place}: a folder without a file {wanted}")
    if len(found) > 1:
        raise ValueError(
            f"{place}: has vectors of several models: {sorted(map(str, found))}; choose one with "
            "faststeer.formats.caa.load_folder(folder, model=...)"
        )
    ((own, files),) = found.items()
    directions = {layer: direction_in(file, load_plain(file)) for layer, file in files.items()}
    return _vector(place, place.resolve().name, directions, own)


def _refuse_others(place: Path) -> None:
    """Raise ValueError for the folders in which others keep what is not a vector to add."""
    if all((place / name).is_file() for name in ("h1.gguf", "h2.gguf")):
        raise ValueError(
            f"{place}: EasySteer's concept pair, which replaces one direction by another; that is "
            "not supported (each of h1.gguf and h2.gguf can be loaded alone)"
        )
    if any(place.glob("*.bin")) and any(
        (place / name).is_file() for name in ("reft_config.json", "config.json")
    ):
        raise ValueError(f"{place}: a pyreft checkpoint, a learned map; that is not supported")


def from_tensor(file: Path, tensor: Tensor, layer: int | None) -> SteeringVector:
    """The vector of a file that held a bare tensor; `layer` for a name that does not say it.

    Raises:
        ValueError: the layer is not known, or said twice and not the same.
    """
    match = _NAME.fullmatch(file.name)
    if match is None and layer is None:
        raise ValueError(
            f"{file}: holds a bare tensor, and its name does not say the layer ({_FORM}); give it: "
            "load(path, layer=13), or --layer 13"
        )
    if match is not None and layer not in (None, int(match[1])):
        raise ValueError(f"{file}: is of layer {match[1]} by its name, not of layer {layer}")
    own = int(match[1]) if match is not None else layer
    assert own is not None
    return _vector(
        file, file.stem, {own: direction_in(file, tensor)}, None if match is None else match[2]
    )


def direction_in(file: Path, tensor: object) -> Tensor:
    """Return a tensor ``[H]`` not larger than its file. Raise ValueError for anything else."""
    return checked_tensor(file, tensor, 1)


def checked_tensor(file: Path, tensor: object, dimensions: int) -> Tensor:
    """As `direction_in`, for a tensor of 1 or 2 dimensions."""
    shape = "[H]" if dimensions == 1 else "[N, H]"
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{file}: holds a {type(tensor).__name__}; expected a tensor {shape}")
    if tensor.dim() != dimensions or not tensor.is_floating_point():
        raise ValueError(
            f"{file}: holds a tensor of {tensor.dtype} and {tensor.dim()} dimensions; expected "
            f"floating-point numbers {shape}"
        )
    if tensor.numel() * tensor.element_size() > file.stat().st_size:
        raise ValueError(f"{file}: its tensor is larger than the file")
    return tensor


def _vector(
    path: Path, name: str, directions: dict[int, Tensor], model: str | None
) -> SteeringVector:
    try:
        metadata = {} if model is None else {"model": model}
        return SteeringVector(name, directions, "resid_post", metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _bytes(direction: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(direction.clone(), buffer)
    return buffer.getvalue()
