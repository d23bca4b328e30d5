"""Compare `Patched.ablate` with hooks that project at every site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import faststeer
from every_model.calls import Unreadable
from every_model.hooks import Edits, Input, without
from every_model.outcomes import VOID, WRONG, Finding, judged
from every_model.runs import logits_of
from every_model.steering_checks import compared, matters, share
from every_model.subject import Subject


def ablation_check(subject: Subject) -> Iterator[Finding]:
    """Yield the finding for `Patched.ablate`."""
    yield _ablation(subject)


def _ablation(subject: Subject) -> Finding:
    check = "ablate"
    layer, direction = subject.common_direction()
    vector = faststeer.SteeringVector("common", {layer: direction})
    try:
        expected, single = (
            logits_of(subject.model, subject.even, _ablating(subject, direction, dtype))
            for dtype in (torch.float64, torch.float32)
        )
    except Unreadable as error:
        expected, reason = None, error
    idle = logits_of(subject.model, subject.even)
    if expected is not None and not matters(expected, idle):
        return Finding(check, VOID, message="ablation has next to no effect")
    try:
        with faststeer.patch(subject.model) as patched:
            patched.ablate(vector)
            found = logits_of(subject.model, subject.even)
    except Exception as error:
        return judged(check, error, subject.model)
    if expected is None:
        return Finding(check, WRONG, message=f"not refused, though {reason}")
    # Projections are rounded in every layer: the difference of two hooks shows the effect.
    return compared(check, found, expected, idle, 4 * share(single, expected, idle))


def _ablating(subject: Subject, direction: Tensor, dtype: torch.dtype) -> Edits:
    edits: list[Any] = [(Input(subject.blocks[0]), without(direction, dtype))]
    for block in subject.blocks:
        edits.append((block, without(direction, dtype)))
        if subject.fused:
            edits += _between(block, direction, dtype)
    return edits


def _between(block: Any, direction: Tensor, dtype: torch.dtype) -> list[Any]:
    """Return the edits at resid_mid of a block that adds attention and MLP in turn."""
    kept: list[Tensor] = []
    normed = hasattr(block, "pre_feedforward_layernorm")
    added = block.post_attention_layernorm if normed else block.self_attn
    take = without(direction, dtype)

    def remember(call: Any, hidden: Tensor) -> Tensor:
        kept[:] = [hidden]
        return hidden

    def edit(call: Any, addition: Tensor) -> Tensor:
        return take(call, kept[0] + addition) - kept[0]

    return [(Input(block), remember), (added, edit)]
