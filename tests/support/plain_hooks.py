"""Conventional steering with plain hooks in float32: the reference for a patched model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import faststeer

Term = tuple[faststeer.SteeringVector, float, Sequence[int]]


def _added(hidden: Tensor, addition: Tensor) -> Tensor:
    return (hidden.float() + addition).to(hidden.dtype)


@contextmanager
def hooked(decoder: Any, terms: Sequence[Term]) -> Iterator[None]:
    """Add coefficient * direction at each term's site and layers."""
    with ExitStack() as stack:
        for vector, coefficient, layers in terms:
            for layer in layers:
                addition = coefficient * vector.directions[layer]
                block = decoder.layers[layer]
                stack.callback(_register(block, vector.site, addition).remove)
        yield


def _register(block: Any, site: str, addition: Tensor) -> Any:
    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (_added(output[0], addition), *output[1:])
        return _added(output, addition)

    def before(module: nn.Module, args: Any) -> Any:
        return (_added(args[0], addition), *args[1:])

    if site == "resid_post":
        return block.register_forward_hook(after)
    if site == "resid_pre":
        return block.register_forward_pre_hook(before)
    # resid_mid: the vector is added to the attention output, which is added to the residual.
    normed = hasattr(block, "pre_feedforward_layernorm")
    last = block.post_attention_layernorm if normed else block.self_attn
    return last.register_forward_hook(after)


def random_vector(
    name: str, layers: Sequence[int], hidden: int = 64, seed: int = 0, site: str = "resid_post"
) -> faststeer.SteeringVector:
    """Return a vector with directions of norm about 1 at each layer."""
    generator = torch.Generator().manual_seed(seed)
    directions = {n: torch.randn(hidden, generator=generator) / hidden**0.5 for n in layers}
    return faststeer.SteeringVector(name, directions, site)
