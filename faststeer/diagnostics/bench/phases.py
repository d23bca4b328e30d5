"""Time the phases of `faststeer bench`: a prefill, and eager, captured and compiled decode steps.

In each phase the variants alternate, so that a slowdown of the machine affects all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.diagnostics.bench.cuda_graph import StaticDecode
from faststeer.diagnostics.bench.timing import Samples, round_robin
from faststeer.diagnostics.bench.variants import IDLE, NAMES, STOCK, Variants, per_row_variant
from faststeer.models.calls import past_argument, past_of
from faststeer.utils.progress import Advance

PREFILL, DECODE, CAPTURED, COMPILED = "prefill", "decode", "decode, captured", "decode, compiled"
# Compiling takes a minute per variant, and any number of vectors gives the same graph.
COMPILED_VARIANTS = (STOCK, IDLE, per_row_variant(4))


def prefill(variants: Variants, ids: Tensor, rounds: int, advance: Advance) -> Samples:
    """Time a forward pass over ids ``[B, T]`` that fills a cache and ends in the last logits."""

    def forward(model: nn.Module) -> object:
        return model(input_ids=ids, use_cache=True, logits_to_keep=1)

    return round_robin(variants, ids.device, lambda: None, forward, rounds, advance)


def decode(
    variants: Variants, ids: Tensor, new_tokens: int, rounds: int, advance: Advance
) -> Samples:
    """Time a decode step of one token per row: the mean of `new_tokens` steps after ids ``[B, T]``.

    Every sample starts from a copy of the prompt's cache: a cache with a sliding window or a
    recurrent state cannot be cropped back to the prompt.
    """
    any_model = next(iter(variants.values()))
    with torch.inference_mode():
        filled = past_of(any_model(input_ids=ids, use_cache=True, logits_to_keep=1))
    name, token = past_argument(any_model), ids[:, -1:]
    cache: dict[str, Any] = {}

    def refill() -> None:
        cache[name] = copy.deepcopy(filled)

    def steps(model: nn.Module) -> None:
        for _ in range(new_tokens):
            model(input_ids=token, use_cache=True, **cache)

    loops = round_robin(variants, ids.device, refill, steps, rounds, advance)
    return _per_step(loops, new_tokens)


def decode_captured(
    variants: Variants, ids: Tensor, new_tokens: int, rounds: int, advance: Advance
) -> Samples:
    """Time a decode step over a static cache, replayed from each variant's CUDA graph."""
    static = StaticDecode(next(iter(variants.values())), ids, new_tokens)
    with torch.inference_mode():
        replays = {name: static.capture(model) for name, model in variants.items()}
    return _time_replays(replays, static, ids.device, new_tokens, rounds, advance)


def decode_compiled(
    variants: Variants, ids: Tensor, new_tokens: int, rounds: int, advance: Advance
) -> Samples:
    """Time a decode step over a static cache with `torch.compile`, of `COMPILED_VARIANTS` only.

    On a GPU the compiled step is captured as a CUDA graph and replayed.
    """
    torch.compiler.reset()  # an earlier batch size must not make shapes dynamic
    static = StaticDecode(next(iter(variants.values())), ids, new_tokens)
    replays: dict[str, Callable[[], object]] = {}
    with torch.inference_mode():
        for name in COMPILED_VARIANTS:
            model: Any = torch.compile(variants[name], fullgraph=True, dynamic=False)
            if ids.device.type == "cuda":
                replays[name] = static.capture(model)
            else:
                replays[name] = partial(static.step, model)
    return _time_replays(replays, static, ids.device, new_tokens, rounds, advance)


PHASES: dict[str, Callable[[Variants, Tensor, int, int, Advance], Samples]] = {
    PREFILL: lambda variants, ids, _, rounds, advance: prefill(variants, ids, rounds, advance),
    DECODE: decode,
    CAPTURED: decode_captured,
    COMPILED: decode_compiled,
}


def phases_for(device: torch.device, compiled: bool) -> list[str]:
    """Return the names of the phases that are measured on a device."""
    captured = [CAPTURED] if device.type == "cuda" else []
    return [PREFILL, DECODE, *captured, *([COMPILED] if compiled else [])]


def samples_per_round(phases: Iterable[str]) -> int:
    """Return how many samples one round of these phases takes, over all variants."""
    return sum(len(COMPILED_VARIANTS if phase == COMPILED else NAMES) for phase in phases)


def _time_replays(
    replays: Mapping[str, Callable[[], object]],
    static: StaticDecode,
    device: torch.device,
    new_tokens: int,
    rounds: int,
    advance: Advance,
) -> Samples:
    def steps(replay: Callable[[], object]) -> None:
        for _ in range(new_tokens):
            replay()

    loops = round_robin(replays, device, static.rewind, steps, rounds, advance)
    return _per_step(loops, new_tokens)


def _per_step(loops: Samples, steps: int) -> Samples:
    return Samples({name: [s / steps for s in own] for name, own in loops.seconds.items()})
