"""Steering, held against plain hooks in the same cached generate and against full recomputation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

import faststeer
from every_model.outcomes import RIGHT, STOCK, VOID, WRONG, Finding, judged
from every_model.reference import (
    Amount,
    Edits,
    Input,
    Prompts,
    adding,
    adding_everywhere,
    logits_of,
    step_logits,
    without,
)
from every_model.subject import Subject

LIMIT = 1e-6  # of the effect
RECOMPUTED_LIMIT = 1e-3  # between runs with and without a cache, whose sums have other orders
TELLING = 1e-3  # by so much of the effect a wrong run has to differ from the right one

Inside = Callable[[int, int], bool]  # position, length of the prompt
SCOPES: dict[str, tuple[Any, Inside]] = {
    "all": ("all", lambda p, n: True),
    "prompt": ("prompt", lambda p, n: p < n),
    "generated": ("generated", lambda p, n: p >= n),
    "from_last_prompt": ("from_last_prompt", lambda p, n: p >= n - 1),
    "last": ("last", lambda p, n: p == n - 1),
    "range": (range(1, 4), lambda p, n: 1 <= p < 4),
}
ROWS = (1.0, 0.0, -1.0)  # the second row is unsteered: {}


def amount_of(inside: Inside, factors: tuple[float, ...], everywhere: bool) -> Amount:
    """What `inside` means for a hook; padding is steered by "all" alone."""

    def amount(row: int, position: int | None, length: int) -> float:
        if position is None:
            return factors[row] if everywhere else 0.0
        return factors[row] * inside(position, length)

    return amount


def steering_checks(subject: Subject) -> Iterator[Finding]:
    """One finding per scope, for rows, for a plain forward and for ablation."""
    yield _forward(subject)
    yield from _scopes(subject)
    yield from _rows(subject)
    yield _ablation(subject)


def share(found: Tensor, expected: Tensor, idle: Tensor) -> float:
    """The largest error as a share of the largest effect."""
    return float((found - expected).abs().max() / (expected - idle).abs().max())


def compared(check: str, found: Tensor, expected: Tensor, idle: Tensor) -> Finding:
    """Right, or wrong by how much."""
    error = share(found, expected, idle)
    if error <= LIMIT:
        return Finding(check, RIGHT, error)
    unsteered = torch.equal(found, idle)
    return Finding(check, WRONG, error, "it is unsteered" if unsteered else f"off by {error:.1e}")


def _edits(subject: Subject, amount: Amount) -> Edits:
    blocks, vector = subject.blocks, subject.directions
    return [(blocks[layer], adding(own, amount)) for layer, own in vector.items()]


def _forward(subject: Subject) -> Finding:
    check = "forward"
    edits = [
        (subject.blocks[layer], adding_everywhere(direction, 1.0))
        for layer, direction in subject.directions.items()
    ]
    idle = logits_of(subject.model, subject.even)
    expected = logits_of(subject.model, subject.even, edits)
    if not float((expected - idle).abs().max()) > 0.1 * float(idle.abs().max()):
        return Finding(check, VOID, message="the dose has next to no effect")
    try:
        with faststeer.patch(subject.model) as patched:
            patched.steer(subject.vector)
            found = logits_of(subject.model, subject.even)
    except Exception as error:
        return judged(check, error, subject.model)
    return compared(check, found, expected, idle)


def _generated(subject: Subject, prompts: Prompts, edits: Edits = (), cache: bool = True) -> Tensor:
    return step_logits(subject.model, prompts, subject.continuation, edits, cache)


def _scopes(subject: Subject) -> Iterator[Finding]:
    yield from _in_scopes(subject, "scope", subject.even, SCOPES, (1.0, 1.0, 1.0))


def _rows(subject: Subject) -> Iterator[Finding]:
    chosen = {name: SCOPES[name] for name in ("all", "generated", "range")}
    yield from _in_scopes(subject, "rows", subject.padded, chosen, ROWS)


def _in_scopes(
    subject: Subject,
    kind: str,
    prompts: Prompts,
    scopes: dict[str, tuple[Any, Inside]],
    factors: tuple[float, ...],
) -> Iterator[Finding]:
    """Steer in each scope; `factors` by row, given as rows where they differ."""
    rows = None
    if len(set(factors)) > 1:
        rows = [{subject.vector.name: factor} if factor else {} for factor in factors]
    reason = subject.cannot_generate(prompts)
    if reason is not None:
        for name in scopes:
            yield Finding(f"{kind}: {name}", STOCK, message=reason)
        return
    edits = {
        name: _edits(subject, amount_of(inside, factors, name == "all"))
        for name, (_, inside) in scopes.items()
    }
    idle = _generated(subject, prompts)
    try:
        right = {name: _generated(subject, prompts, own) for name, own in edits.items()}
        recomputed = {name: _generated(subject, prompts, own, False) for name, own in edits.items()}
        shifted = _wrong_runs(subject, prompts, factors)
    except Exception as error:
        yield from _without_tokens(subject, kind, scopes, rows, error)
        return
    for name, (positions, _) in scopes.items():
        check = f"{kind}: {name}"
        expected = right[name]
        effect = float((expected - idle).abs().max())
        others = {**{k: v for k, v in right.items() if k != name}, **shifted, "unsteered": idle}
        nearest = min(others, key=lambda k: float((others[k] - expected).abs().max()))
        telling = float((others[nearest] - expected).abs().max())
        if not (effect > 0 and telling >= TELLING * effect):
            yield Finding(check, VOID, message=f"{nearest} would hardly differ")
            continue
        recompute_error = float((recomputed[name] - expected).abs().max()) / effect
        if recompute_error > RECOMPUTED_LIMIT and not subject.cache_differs(prompts):
            message = f"hooks differ by {recompute_error:.1e} from those without a cache"
            yield Finding(check, VOID, message=message)
            continue
        try:
            with faststeer.patch(subject.model) as patched:
                patched.steer(subject.vector, positions=positions)
                with nullcontext() if rows is None else patched.rows(rows):
                    found = _generated(subject, prompts)
        except Exception as error:
            yield judged(check, error, subject.model)
            continue
        finding = compared(check, found, expected, idle)
        if finding.outcome == WRONG:
            alike = [k for k, v in others.items() if share(found, v, idle) < 1e-4]
            if alike:
                finding = Finding(check, WRONG, finding.error, f"it equals {alike[0]}")
        yield finding


def _wrong_runs(
    subject: Subject, prompts: Prompts, factors: tuple[float, ...]
) -> dict[str, Tensor]:
    """A range that lies a token further on, and every row's factor given to its neighbour."""
    runs = {"a range one token on": (lambda p, n: 2 <= p < 5, factors)}
    if len(set(factors)) > 1:
        rolled = (*factors[1:], factors[0])
        for name in ("all", "generated", "range"):
            runs[f"{name} of another row"] = (SCOPES[name][1], rolled)
    return {
        name: _generated(subject, prompts, _edits(subject, amount_of(inside, own, "all" in name)))
        for name, (inside, own) in runs.items()
    }


def _without_tokens(
    subject: Subject,
    kind: str,
    scopes: dict[str, tuple[Any, Inside]],
    rows: Any,
    reason: Exception,
) -> Iterator[Finding]:
    """For blocks whose tensors do not show their tokens: nothing but a refusal is right."""
    for name, (positions, _) in scopes.items():
        check = f"{kind}: {name}"
        if name == "all" and rows is None:
            continue
        prompts = subject.even if rows is None else subject.padded
        try:
            with faststeer.patch(subject.model) as patched:
                patched.steer(subject.vector, positions=positions)
                with nullcontext() if rows is None else patched.rows(rows):
                    _generated(subject, prompts)
        except Exception as error:
            yield judged(check, error, subject.model)
        else:
            yield Finding(check, WRONG, message=f"not refused, though {reason}")


def _ablation(subject: Subject) -> Finding:
    check = "ablate"
    layer, direction = subject.common_direction()
    vector = faststeer.SteeringVector("common", {layer: direction})
    blocks = subject.blocks
    edits: list[Any] = [(Input(blocks[0]), without(direction))]
    for block in blocks:
        edits.append((block, without(direction)))
        if subject.fused:
            edits += _between(block, direction)
    try:
        expected = logits_of(subject.model, subject.even, edits)
    except Exception as error:
        return Finding(check, VOID, message=f"no reference: {type(error).__name__}: {error}")
    idle = logits_of(subject.model, subject.even)
    if not float((expected - idle).abs().max()) > 0.01 * float(idle.abs().max()):
        return Finding(check, VOID, message="ablation has next to no effect")
    try:
        with faststeer.patch(subject.model) as patched:
            patched.ablate(vector)
            found = logits_of(subject.model, subject.even)
    except Exception as error:
        return judged(check, error, subject.model)
    return compared(check, found, expected, idle)


def _between(block: Any, direction: Tensor) -> list[Any]:
    """Edits of a block whose attention and MLP are added one after the other, at resid_mid."""
    kept: list[Tensor] = []
    normed = hasattr(block, "pre_feedforward_layernorm")
    added = block.post_attention_layernorm if normed else block.self_attn
    take = without(direction)

    def remember(call: Any, hidden: Tensor) -> Tensor:
        kept[:] = [hidden]
        return hidden

    def edit(call: Any, addition: Tensor) -> Tensor:
        return take(call, kept[0] + addition) - kept[0]

    return [(Input(block), remember), (added, edit)]
