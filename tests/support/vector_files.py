"""Equality of vectors, and GGUF files as other tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch

from faststeer import SteeringVector


def same(one: SteeringVector, other: SteeringVector) -> bool:
    """Return whether two vectors are equal bit for bit and in all other fields."""
    return (
        (one.name, one.site, one.metadata) == (other.name, other.site, other.metadata)
        and one.layers == other.layers
        and all(
            torch.equal(one.directions[n].view(torch.int32), other.directions[n].view(torch.int32))
            for n in one.layers
        )
    )


def equal(one: SteeringVector, other: SteeringVector) -> bool:
    return one.layers == other.layers and all(
        torch.equal(one.directions[layer], other.directions[layer]) for layer in one.layers
    )


def write_gguf(file: Path, architecture: str = "controlvector", **tensors: Any) -> Path:
    """Write a GGUF control vector as llama.cpp's cvector-generator and repeng do."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, tensor in tensors.items():
        writer.add_tensor(name.replace("_", "."), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
