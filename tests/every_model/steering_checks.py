"""Compare steering with plain hooks in a cached generate, and the hooks with recomputation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

from torch import Tensor

import faststeer
from every_model.calls import Amount, Prompts, Unreadable
from every_model.hooks import Edit, Edits, adding, adding_by_sequence
from every_model.outcomes import RIGHT, STOCK, VOID, WRONG, Finding, judged
from every_model.runs import logits_of, step_logits
from every_model.subject import Subject

LIMIT = 1e-6  # of the effect
RECOMPUTED_LIMIT = 1e-3  # between runs with and without a cache, whose sums have other orders
TELLING = 1e-3  # share of the effect by which a wrong run has to differ from the right one
ALIKE = 1e-4  # a wrong result equals another run made here

Inside = Callable[[int, int], bool]  # position, length of the prompt
SCOPES: dict[str, tuple[Any, Inside | None]] = {
    "all": ("all", None),
    "prompt": ("prompt", lambda p, n: p < n),
    "generated": ("generated", lambda p, n: p >= n),
    "from_last_prompt": ("from_last_prompt", lambda p, n: p >= n - 1),
    "last": ("last", lambda p, n: p == n - 1),
    "first(2)": (faststeer.first(2), lambda p, n: n <= p < n + 2),
    "range": (range(2, 8), lambda p, n: 2 <= p < 8),  # past the end of some prompts
}
EQUAL = (1.0, 1.0, 1.0)
ROWS = (1.0, 0.0, -1.0)  # the second row is unsteered: {}


def amount_of(inside: Inside, factors: tuple[float, ...]) -> Amount:
    """Return the factor per token for a hook; padding is never inside."""

    def amount(row: int, position: int | None, length: int) -> float:
        return 0.0 if position is None else factors[row] * inside(position, length)

    return amount


def steering_checks(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for a plain forward, for each scope and for rows."""
    yield _forward(subject)
    yield from _scopes(subject)
    yield from _rows(subject)


def share(found: Tensor, expected: Tensor, idle: Tensor) -> float:
    """Return the largest error as a share of the largest effect."""
    return float((found - expected).abs().max() / (expected - idle).abs().max())


def compared(
    check: str, found: Tensor, expected: Tensor, idle: Tensor, rounding: float = 0.0
) -> Finding:
    """Return the finding for `found`. `rounding`: an error that equally valid hooks make."""
    error = share(found, expected, idle)
    if error <= max(LIMIT, rounding):
        return Finding(check, RIGHT, error)
    return Finding(check, WRONG, error, f"off by {error:.1e}")


def _edits(subject: Subject, inside: Inside | None, factors: tuple[float, ...]) -> Edits:
    """Return hooks for the positions `inside`; None: everywhere, padding included."""

    def edit(direction: Tensor) -> Edit:
        if inside is None:
            return adding_by_sequence(direction, factors)
        return adding(direction, amount_of(inside, factors))

    blocks, vector = subject.blocks, subject.directions
    return [(blocks[layer], edit(own)) for layer, own in vector.items()]


def _forward(subject: Subject) -> Finding:
    check = "forward"
    edits = _edits(subject, None, EQUAL)
    idle = logits_of(subject.model, subject.even)
    try:
        expected = logits_of(subject.model, subject.even, edits)
    except Unreadable as error:
        expected, reason = None, error
    if expected is not None and not matters(expected, idle):
        return Finding(check, VOID, message="the dose has next to no effect")
    try:
        with faststeer.patch(subject.model) as patched:
            patched.steer(subject.vector)
            found = logits_of(subject.model, subject.even)
    except Exception as error:
        return judged(check, error, subject.model)
    if expected is None:
        return Finding(check, WRONG, message=f"not refused, though {reason}")
    return compared(check, found, expected, idle)


def matters(expected: Tensor, idle: Tensor) -> bool:
    """Return whether a change of the logits is large enough to measure errors against."""
    return float((expected - idle).abs().max()) > 0.1 * float(idle.abs().max())


def _generated(subject: Subject, prompts: Prompts, edits: Edits = (), cache: bool = True) -> Tensor:
    return step_logits(subject.model, prompts, subject.continuation, edits, cache)


def _scopes(subject: Subject) -> Iterator[Finding]:
    yield from in_scopes(subject, "scope", subject.even, SCOPES, EQUAL)


def _rows(subject: Subject) -> Iterator[Finding]:
    chosen = {name: SCOPES[name] for name in ("all", "generated", "range")}
    yield from in_scopes(subject, "rows", subject.padded, chosen, ROWS)


def in_scopes(
    subject: Subject,
    kind: str,
    prompts: Prompts,
    scopes: dict[str, tuple[Any, Inside | None]],
    factors: tuple[float, ...],
) -> Iterator[Finding]:
    """Steer in each scope with `factors` per row; where they differ, through `rows`."""
    rows = None
    if len(set(factors)) > 1:
        rows = [{subject.vector.name: factor} if factor else {} for factor in factors]
    reason = subject.cannot_generate(prompts)
    if reason is not None:
        for name in scopes:
            yield Finding(f"{kind}: {name}", STOCK, message=reason)
        return
    idle = _generated(subject, prompts)
    right: dict[str, Tensor] = {}
    unreadable: dict[str, Unreadable] = {}
    for name, (_, inside) in scopes.items():
        try:
            right[name] = _generated(subject, prompts, _edits(subject, inside, factors))
        except Unreadable as error:
            unreadable[name] = error
    wrong = {"unsteered": idle, **_wrong_runs(subject, prompts, factors)}
    for name, (positions, inside) in scopes.items():
        check = f"{kind}: {name}"
        if name in right:
            others = wrong | {other: run for other, run in right.items() if other != name}
            edits = _edits(subject, inside, factors)
            void = _void(subject, prompts, right[name], others, edits)
            if void is not None:
                yield Finding(check, VOID, message=void)
                continue
        try:
            with faststeer.patch(subject.model) as patched:
                patched.steer(subject.vector, positions=positions)
                with nullcontext() if rows is None else patched.rows(rows):
                    found = _generated(subject, prompts)
        except Exception as error:
            yield judged(check, error, subject.model)
            continue
        if name not in right:  # only a refusal is correct
            yield Finding(check, WRONG, message=f"not refused, though {unreadable[name]}")
            continue
        finding = compared(check, found, right[name], idle)
        effect = (right[name] - idle).abs().max()
        alike = [k for k, run in others.items() if (found - run).abs().max() < ALIKE * effect]
        if finding.outcome == WRONG and alike:
            finding = Finding(check, WRONG, finding.error, f"it equals {alike[0]}")
        yield finding


def _void(
    subject: Subject, prompts: Prompts, right: Tensor, others: dict[str, Tensor], edits: Edits
) -> str | None:
    """Return the reason why a result equal to `right` would be inconclusive, or None.

    A wrong run is too near, or the hooks differ from their own recomputation without a cache.
    """
    effect = float((right - others["unsteered"]).abs().max())
    distances = {name: float((run - right).abs().max()) for name, run in others.items()}
    nearest = min(distances, key=lambda name: distances[name])
    if not (effect > 0 and distances[nearest] >= TELLING * effect):
        return f"{nearest} would hardly differ"
    recomputed = _generated(subject, prompts, edits, False)
    off = float((recomputed - right).abs().max()) / effect
    if off > RECOMPUTED_LIMIT and not subject.cache_differs(prompts):
        return f"hooks differ by {off:.1e} from those without a cache"
    return None


def _wrong_runs(
    subject: Subject, prompts: Prompts, factors: tuple[float, ...]
) -> dict[str, Tensor]:
    """Return runs that a faulty program might produce: a range one token late, rows rotated.

    Those that need tokens are left out where blocks do not show them.
    """
    runs: dict[str, tuple[Inside | None, tuple[float, ...]]] = {
        "a range one token on": (lambda p, n: 3 <= p < 9, factors)
    }
    if len(set(factors)) > 1:
        rolled = (*factors[1:], factors[0])
        for name in ("all", "generated", "range"):
            runs[f"{name} of another row"] = (SCOPES[name][1], rolled)
    found = {}
    for name, (inside, own) in runs.items():
        with suppress(Unreadable):
            found[name] = _generated(subject, prompts, _edits(subject, inside, own))
    return found
