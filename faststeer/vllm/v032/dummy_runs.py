"""Dummy runs of vLLM 0.32 on the CPU, whose attention writes no result: the proof needs one."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

SIGNATURE = (
    CPUAttentionBackendImpl.forward,
    "self layer query key value kv_cache attn_metadata output output_scale output_block_scale",
)


def fill_dummy_attention() -> None:
    """Let attention write zeros in dummy runs, as vLLM's other backends do.

    Without it the residual stream holds what the memory held before, numbers of any size and NaN
    among them, and neither a small addition nor NaN shows in it.
    """
    stock = CPUAttentionBackendImpl.forward

    @functools.wraps(stock)
    def forward(
        self: Any,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        output_scale: Any = None,
        output_block_scale: Any = None,
    ) -> Any:
        if attn_metadata is None:
            output.zero_()
        given = (layer, query, key, value, kv_cache, attn_metadata, output)
        return stock(self, *given, output_scale, output_block_scale)

    CPUAttentionBackendImpl.forward = forward
