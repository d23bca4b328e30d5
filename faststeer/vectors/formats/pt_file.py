"""Reading .pt files that others wrote: tensors and plain containers, nothing that runs.

`torch.load(weights_only=True)` runs no code, but a small hostile file can make it allocate what it
likes. So the file is looked at first, and then mapped: a mapped storage ends where the file does,
whatever the pickle says of its size.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

# What tensors, parameters and dicts of them are made of; weights_only allows much more.
_GLOBALS = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
}
_OTHER_WAYS_TO_A_GLOBAL = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}


def load_plain(file: Path) -> Any:
    """What `torch.save` wrote: floating-point tensors, alone or in dicts and lists.

    Tensors are views of the mapped file: copy what is kept, after a look at its size (a stride of
    zero makes a small file's tensor as large as it likes).

    Raises:
        ValueError: it is no such file, is truncated, or holds anything else.
    """
    try:
        _check(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zipfile and torch raise whatever a damaged file leads them to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file}: not a readable .pt file ({reason})") from error


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
