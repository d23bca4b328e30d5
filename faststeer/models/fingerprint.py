"""Hashes of weights, by which a model is known under any name and in any folder."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

_SAMPLE = 1024  # elements of each parameter


def weights_sha256(module: nn.Module, dtype: torch.dtype = torch.float32) -> str:
    """Return the SHA-256 of each parameter's name and first 1,024 elements, as `dtype`.

    Parameters on the meta device are left out.
    """
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if parameter.device.type != "meta":
            digest.update(name.encode())
            values = parameter.detach().flatten()[:_SAMPLE].to(dtype).float().cpu()
            digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprint(decoder: Any) -> str | None:
    """Return a hash of a decoder's weights that is the same in float32 and bfloat16.

    Returns None where not all of them are at hand: offloaded, quantised or sharded weights.
    """
    parameters = list(decoder.parameters())
    plain = all(
        one.is_floating_point() and one.device.type != "meta" and not hasattr(one, "to_local")
        for one in parameters
    )
    return weights_sha256(decoder, torch.bfloat16) if parameters and plain else None
