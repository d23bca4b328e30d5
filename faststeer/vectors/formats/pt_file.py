"""Untrusted .pt files: tensors and plain containers are read, and no code runs.

`torch.load(weights_only=True)` runs no code, but a small hostile file can make it allocate any
amount of memory. So the file is checked first, and then mapped: a mapped storage ends where the
file does, whatever size the pickle states.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# What tensors, parameters and dicts of them are made of; weights_only allows much more.
_GLOBALS = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
}
_OTHER_WAYS_TO_A_GLOBAL = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}


def load_plain(file: Path) -> Any:
    """Read what `torch.save` wrote: floating-point tensors, alone or in dicts and lists.

    Tensors are views of the mapped file: copy what is kept after `checked_tensor` (a stride of zero
    makes a small file's tensor arbitrarily large).

    Raises:
        ValueError: the file was not written by `torch.save`, is truncated, or holds anything else.
    """
    try:
        _check(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zipfile and torch raise many kinds for a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"not a readable .pt file ({reason})") from error


def checked_tensor(file: Path, tensor: object, dimensions: int) -> Tensor:
    """Return `tensor` if it is ``[H]``, or ``[N, H]`` for 2 dimensions, and fits in its file.

    Raises:
        ValueError: anything else, also integers.
    """
    shape = "[H]" if dimensions == 1 else "[N, H]"
    if not isinstance(tensor, Tensor):
        raise ValueError(f"holds a {type(tensor).__name__}; expected a tensor {shape}")
    if tensor.dim() != dimensions or not tensor.is_floating_point():
        raise ValueError(
            f"holds a tensor of {tensor.dtype} and {tensor.dim()} dimensions; expected "
            f"floating-point numbers {shape}"
        )
    if tensor.numel() * tensor.element_size() > file.stat().st_size:
        raise ValueError("its tensor is larger than the file")
    return tensor


def _check(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
            for entry in entries
        ):
            raise ValueError("it has compressed entries, which torch.save does not write")
        if sum(entry.file_size for entry in entries) > file.stat().st_size:
            raise ValueError("its entries are larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip file without one data.pkl, as torch.save writes it")
        content = archive.read(pickles[0])
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "PROTO" and argument != 2:
            raise ValueError(f"its pickle has protocol {argument}; torch.save writes 2")
        if opcode.name in _OTHER_WAYS_TO_A_GLOBAL or (
            opcode.name == "GLOBAL" and argument not in _GLOBALS
        ):
            raise ValueError(f"it needs {argument or opcode.name}, which no vector needs")
