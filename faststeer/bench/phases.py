"""What `faststeer bench` times: a prefill, and decode steps eager, captured and compiled.

In each phase all variants take turns, so that what slows the machine for a while slows them all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.bench.cuda_graph import StaticDecode
from faststeer.bench.timing import Samples, taking_turns
from faststeer.bench.variants import IDLE, NAMES, STOCK, Variants, of_rows
from faststeer.models.calls import past_argument, past_of
from faststeer.utils.progress import Advance

PREFILL, DECODE, CAPTURED, COMPILED = "prefill", "decode", "decode, captured", "decode, compiled"
# To compile takes a minute; more vectors are the same graph.
WORTH_COMPILING = (STOCK, IDLE, of_rows(4))


def prefill(variants: Variants, ids: Tensor, rounds: int, advance: Advance) -> Samples:
    """Seconds of one forward over ids ``[B, T]`` that fills a cache and ends in one logit a row."""

    def forward(model: nn.Module) -> object:
        return model(input_ids=ids, use_cache=True, logits_to_keep=1)

    return taking_turns(variants, ids.device, lambda: None, forward, rounds, advance)


def decode(
    variants: Variants, ids: Tensor, new_tokens: int, rounds: int, advance: Advance
) -> Samples:
    """Seconds of one step of one token a row, the mean of `new_tokens` steps after ids ``[B, T]``.

    Every sample begins with a copy of one cache that holds the prompt: a cache whose sliding window
    or recurrent state has moved on cannot be cut back.
    """
    any_model = next(iter(variants.values()))
    with torch.inference_mode():
        filled = past_of(any_model(input_ids=ids, use_cache=True, logits_to_keep=1))
    name, token = past_argument(any_model), ids[:, -1:]
    past: dict[str, Any] = {}

    def refill() -> None:
        past[name] = copy.deepcopy(filled)

    def steps(model: nn.Module) -> None:
        for _ in range(new_tokens):
            model(input_ids=token, use_cache=True, **past)

    loops = taking_turns(variants, ids.device, refill, steps, rounds, advance)
    return _a_step(loops, new_tokens)


def decode_captured(
    variants: Variants, ids: Tensor, new_tokens: int, rounds: int, advance: Advance
) -> Samples:
    """`decode` over a static cache, each variant's step replayed from its CUDA graph."""
    static = StaticDecode(next(iter(variants.values())), ids, new_tokens)
    with torch.inference_mode():
        replays = {name: static.capture(model) for name, model in variants.items()}
    return _replayed(replays, static, ids.device, new_tokens, rounds, advance)


def decode_compiled(
    variants: Variants, ids: Tensor, new_tokens: int, rounds: int, advance: Advance
) -> Samples:
    """`decode` over a static cache with `torch.compile`; a GPU replays its graph of that.

    The variants `WORTH_COMPILING` alone.
    """
    torch.compiler.reset()  # no shape is made general because another batch came before
    static = StaticDecode(next(iter(variants.values())), ids, new_tokens)
    replays: dict[str, Callable[[], object]] = {}
    with torch.inference_mode():
        for name in WORTH_COMPILING:
            model: Any = torch.compile(variants[name], fullgraph=True, dynamic=False)
            if ids.device.type == "cuda":
                replays[name] = static.capture(model)
            else:
                replays[name] = partial(static.step, model)
    return _replayed(replays, static, ids.device, new_tokens, rounds, advance)


PHASES: dict[str, Callable[[Variants, Tensor, int, int, Advance], Samples]] = {
    PREFILL: lambda variants, ids, _, rounds, advance: prefill(variants, ids, rounds, advance),
    DECODE: decode,
    CAPTURED: decode_captured,
    COMPILED: decode_compiled,
}


def phases_on(device: torch.device, compiled: bool) -> list[str]:
    """What is measured there."""
    captured = [CAPTURED] if device.type == "cuda" else []
    return [PREFILL, DECODE, *captured, *([COMPILED] if compiled else [])]


def samples_a_round(phases: Iterable[str]) -> int:
    """Over all variants."""
    return sum(len(WORTH_COMPILING if phase == COMPILED else NAMES) for phase in phases)


def _replayed(
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

    loops = taking_turns(replays, device, static.rewind, steps, rounds, advance)
    return _a_step(loops, new_tokens)


def _a_step(loops: Samples, steps: int) -> Samples:
    return Samples({name: [s / steps for s in own] for name, own in loops.seconds.items()})
