"""Blocks of the prefix cache of vLLM 0.32, with the active vectors in their keys."""

from __future__ import annotations

import functools
import sys
from typing import Any

from vllm.v1.core import kv_cache_utils

from faststeer.vllm.configuration import KEY
from faststeer.vllm.request_checks import timeline_of
from faststeer.vllm.v032.request_data import terms_of

SIGNATURES = [
    (
        kv_cache_utils.generate_block_hash_extra_keys,
        "request start_token_idx end_token_idx start_mm_idx",
    ),
]


def tell_blocks_apart() -> None:
    """Add the active vectors to the key of each steered block; unsteered blocks keep theirs."""
    stock = kv_cache_utils.generate_block_hash_extra_keys

    @functools.wraps(stock)
    def extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[tuple[Any, ...] | None, int]:
        keys, next_mm_idx = stock(request, start_token_idx, end_token_idx, start_mm_idx)
        own = _block_key(request, start_token_idx, end_token_idx)
        if own is not None:
            keys = (*(keys or ()), (KEY, own))
        return keys, next_mm_idx

    name = "generate_block_hash_extra_keys"  # which other modules have imported
    for module in list(sys.modules.values()):
        if module is not None and vars(module).get(name) is stock:
            setattr(module, name, extra_keys)


def _block_key(request: Any, start: int, stop: int) -> str | None:
    wire = terms_of(request.sampling_params)
    if not wire:
        return None
    known = getattr(request, "faststeer_timeline", None)
    if known is None or known[0] is not wire:  # a session may be resumed with other arguments
        known = wire, timeline_of(wire, request.num_prompt_tokens)
        request.faststeer_timeline = known
    return known[1].block_key(start, stop)
