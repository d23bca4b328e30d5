"""Compare what tokens decide for themselves with plain hooks: caps, conditions, scopes of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import faststeer
from every_model.calls import Call, Prompts, Unreadable
from every_model.hooks import Edit, Edits, along
from every_model.outcomes import STOCK, VOID, WRONG, Finding, judged
from every_model.runs import logits_of, step_logits
from every_model.steering_checks import EQUAL, TELLING, compared, in_scopes, share
from every_model.subject import STEERED, Subject

MARKED = slice(4, 6)  # where all prompts have the same tokens


def mode_checks(subject: Subject) -> Iterator[Finding]:
    """Yield the findings for a cap, a condition by token, and what follows on a marker."""
    yield _cap(subject)
    yield _condition(subject)
    yield from _written(subject)


def _cap(subject: Subject) -> Finding:
    """Hold the projection under its median, so that half of the tokens are inside."""
    check = "capped"
    layer, direction = subject.common_direction()
    block, vector = subject.blocks[layer], faststeer.SteeringVector("cap", {layer: direction})
    seen: list[Tensor] = []
    try:
        logits_of(subject.model, subject.even, [(block, _seeing(direction, seen))])
    except Unreadable as error:
        return _refused(check, subject, lambda patched: patched.cap(vector, ceiling=0.0), error)
    ceiling = float(seen[0].median())

    def hooked(change: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        edits = [(block, _moving(direction, change, dtype))]
        return logits_of(subject.model, subject.even, edits)

    def excess(own: Tensor) -> Tensor:
        return (own - ceiling).clamp(min=0)

    expected, single = (hooked(excess, dtype) for dtype in (torch.float64, torch.float32))
    others = {
        "no cap": logits_of(subject.model, subject.even),
        "a floor": hooked(lambda own: (own - ceiling).clamp(max=0), torch.float64),
        "a projection": hooked(lambda own: own - ceiling, torch.float64),
    }
    idle = others["no cap"]
    if void := _near(expected, others, idle):
        return Finding(check, VOID, message=void)
    try:
        with faststeer.patch(subject.model) as patched:
            patched.cap(vector, ceiling=ceiling)
            found = logits_of(subject.model, subject.even)
    except Exception as error:
        return judged(check, error, subject.model)
    return compared(check, found, expected, idle, 4 * share(single, expected, idle))


def _condition(subject: Subject) -> Finding:
    """Steer the tokens whose cosine at an earlier layer exceeds the middle one."""
    check = "condition"
    if (reason := subject.cannot_generate(subject.even)) is not None:
        return Finding(check, STOCK, message=reason)
    layer, decides = subject.common_direction()
    steered = next(own for own in STEERED if own > layer)
    direction = subject.directions[steered]
    seen: list[Tensor] = []
    edits = [(subject.blocks[layer], _seeing(decides, seen, cosine=True))]
    reads, vector = (
        faststeer.SteeringVector(name, {at: own})
        for name, at, own in (("reads", layer, decides), ("v", steered, direction))
    )

    def steer(patched: faststeer.Patched, above: float) -> None:
        patched.steer(vector, when=faststeer.when(reads, above=above, each="token"))

    try:
        idle = step_logits(subject.model, subject.even, subject.continuation, edits)
    except Unreadable as error:
        return _refused(check, subject, lambda patched: steer(patched, 0.0), error)
    threshold = _gap(torch.cat([own.flatten() for own in seen]))

    def hooked(which: Callable[[Tensor], Tensor]) -> Tensor:
        edits = _deciding(subject, (layer, decides), (steered, direction), threshold, which)
        return step_logits(subject.model, subject.even, subject.continuation, edits)

    expected = hooked(lambda met: met)
    others = {
        "no steering": idle,
        "every token": hooked(torch.ones_like),
        "the other tokens": hooked(lambda met: ~met),
    }
    if void := _near(expected, others, idle):
        return Finding(check, VOID, message=void)
    try:
        with faststeer.patch(subject.model) as patched:
            steer(patched, threshold)
            found = step_logits(subject.model, subject.even, subject.continuation)
    except Exception as error:
        return judged(check, error, subject.model)
    return compared(check, found, expected, idle)


def _written(subject: Subject) -> Iterator[Finding]:
    ids = subject.even.ids.clone()
    ids[:, MARKED] = ids[0, MARKED].clone()
    prompts = Prompts(ids, subject.even.mask, subject.even.lines)
    behind = faststeer.after(ids[0, MARKED].tolist())
    scopes: Any = {
        "after": (behind, lambda p, n: p >= MARKED.stop),
        "until": (~behind, lambda p, n: p < MARKED.stop),
    }
    yield from in_scopes(subject, "written", prompts, scopes, EQUAL)


def _refused(
    check: str, subject: Subject, steer: Callable[[faststeer.Patched], object], reason: Unreadable
) -> Finding:
    """Return the finding for a model whose blocks hooks cannot read: only a refusal is right."""
    try:
        with faststeer.patch(subject.model) as patched:
            steer(patched)
            logits_of(subject.model, subject.even)
    except Exception as error:
        return judged(check, error, subject.model)
    return Finding(check, WRONG, message=f"not refused, though {reason}")


def _near(expected: Tensor, others: dict[str, Tensor], idle: Tensor) -> str | None:
    """Return the reason why a result equal to `expected` would be inconclusive, or None."""
    effect = float((expected - idle).abs().max())
    for name, run in others.items():
        if not (effect > 0 and float((expected - run).abs().max()) >= TELLING * effect):
            return f"{name} would hardly differ"
    return None


def _seeing(direction: Tensor, seen: list[Tensor], cosine: bool = False) -> Edit:
    """Return an edit that changes nothing and appends projections, or cosines, of all tokens."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        seen.append(along(hidden, direction, torch.float64, cosine))
        return hidden

    return edit


def _moving(direction: Tensor, change: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Edit:
    """Return an edit that subtracts ``change(projection) * direction``, of norm 1."""

    def edit(call: Call, hidden: Tensor) -> Tensor:
        moved = change(along(hidden, direction, dtype))[..., None] * direction.to(dtype)
        return (hidden.to(dtype) - moved).to(hidden.dtype)

    return edit


def _deciding(
    subject: Subject,
    decides: tuple[int, Tensor],
    steered: tuple[int, Tensor],
    threshold: float,
    which: Callable[[Tensor], Tensor],
) -> Edits:
    """Return edits that add a direction to the tokens that `which` makes of those that meet it."""
    met: list[Tensor] = []

    def decide(call: Call, hidden: Tensor) -> Tensor:
        met[:] = [which(along(hidden, decides[1], torch.float64, cosine=True) > threshold)]
        return hidden

    def add(call: Call, hidden: Tensor) -> Tensor:
        if met[0].shape != hidden.shape[:-1]:
            raise Unreadable(f"blocks returned {tuple(met[0].shape)} and {tuple(hidden.shape)}")
        return hidden + met[0][..., None] * steered[1]

    return [(subject.blocks[decides[0]], decide), (subject.blocks[steered[0]], add)]


def _gap(values: Tensor) -> float:
    """Return the middle of the widest gap between neighbours in the middle half of the values."""
    ordered: Sequence[float] = sorted(values.tolist())
    inner = ordered[len(ordered) // 4 : (3 * len(ordered)) // 4 + 1]
    widest = max(range(len(inner) - 1), key=lambda at: inner[at + 1] - inner[at])
    return (inner[widest] + inner[widest + 1]) / 2
