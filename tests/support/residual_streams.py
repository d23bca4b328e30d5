"""The residual stream of a stock model, read without any code of the package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SITES = ("resid_pre", "resid_mid", "resid_post")


def residual_streams(model: Any, ids: list[int]) -> dict[str, Tensor]:
    """Return the stream by site, ``[L, T, H]``, of one unpadded text.

    From `output_hidden_states`, except after the last layer, where that is past the final norm.
    """
    seen: dict[Any, Tensor] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen[module] = output[0] if isinstance(output, tuple) else output

    layers = model.model.layers
    watched = [layer.self_attn for layer in layers] + [layers[-1]]
    handles = [module.register_forward_hook(keep) for module in watched]
    try:
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    before = torch.cat(output.hidden_states[:-1])
    attended = torch.cat([seen[layer.self_attn] for layer in layers])
    return {
        "resid_pre": before,
        "resid_mid": before + attended,
        "resid_post": torch.cat([before[1:], seen[layers[-1]]]),
    }


def row_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest distance of rows ``[..., H]``, as a share of the expected row's norm."""
    distance = (found.double() - expected.double()).norm(dim=-1)
    return float((distance / expected.double().norm(dim=-1)).max())
