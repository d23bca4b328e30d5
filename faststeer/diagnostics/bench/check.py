"""Check that a model is patched, steered and unpatched exactly: measured numbers against limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.diagnostics.bench.check_inputs import built_in_batch, distinct_ids, random_steering
from faststeer.diagnostics.bench.costs import costs
from faststeer.diagnostics.bench.findings import Finding
from faststeer.diagnostics.bench.hook_baselines import Steering, steer_with_hooks, twin
from faststeer.diagnostics.bench.mode_probes import mode_probes
from faststeer.diagnostics.bench.probes import Probes
from faststeer.diagnostics.bench.tolerance import ParityJudge, rms
from faststeer.models.decoders import layers_of
from faststeer.models.inference import greedy_tokens, logits
from faststeer.models.loading import Loaded
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.steering.handles import Handle
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.sites import SITES

_NEW_TOKENS = 32

IDLE_LIMIT = 1e-4
STEERED_LIMIT = 1e-3


def check(loaded: Loaded) -> Iterator[Finding]:
    """Patch, steer and unpatch a model, compare it with stock, and yield each finding.

    Raises:
        ValueError: `patch` refuses the model.
    """
    model = loaded.model
    layers_of(model)  # refuses a model that `logits` may not even run
    batch = built_in_batch(loaded)
    before = _State.of(model, batch)
    method, kinds = _steering_method(model)
    yield method
    stock_twin = twin(model)
    judge = ParityJudge(model)
    yield Finding("tolerance", None, str(judge))

    steering = random_steering(model, batch, kinds)
    with steer_with_hooks(model, steering):
        hooked = logits(model, batch)
    exact, exact_hooked = (judge.exact_logits(batch, by) for by in ([], steering))
    judge.free_copy()
    tokens = None if loaded.tokenizer is None else greedy_tokens(model, batch, _NEW_TOKENS)

    with _patched(model) as patched:
        idle, stock = logits(model, batch), before.logits
        passed, measured = judge.compare(idle, stock, exact, rms(stock), IDLE_LIMIT, "stock")
        equal = int((idle.argmax(-1) == stock.argmax(-1)).sum())
        measured += f"; top-1 equal at {equal} of {len(idle)} positions"
        yield Finding("idle parity", passed and (judge.half or equal == len(idle)), measured)

        handles = _steer(patched, steering)
        steered, effect = logits(model, batch), rms(hooked - stock)
        passed, measured = judge.compare(
            steered, hooked, exact_hooked, effect, STEERED_LIMIT, "hooks"
        )
        measured += f"; the effect is {effect / rms(stock):.2g} of the logits"
        yield Finding("steered equals a hook", passed, measured)

        yield _live_coefficient(model, patched, steering, handles, steered, batch)
        with patched.off():
            yield _bit_for_bit("off() is idle", logits(model, batch), idle)
        patched.clear()
        if tokens is not None:
            ours = greedy_tokens(model, batch, _NEW_TOKENS)
            yield _same_tokens(ours, tokens, judge.half)
        probes = Probes(stock_twin, patched, model, distinct_ids(loaded), judge.half)
        yield from probes.positions()
        yield from probes.rows()
        yield from mode_probes(probes)
    yield _exact_undo(_State.of(model, batch), before)
    yield from costs(model)


def show(loaded: Loaded, console: Console) -> bool:
    """Print each finding as soon as it is known; return whether none failed."""
    styles = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("info", "dim")}
    none_failed = True
    for finding in check(loaded):
        word, style = styles[finding.passed]
        line = Text.assemble((word, style), f"  {finding.name}: {finding.measured}")
        console.print(line, soft_wrap=True)
        none_failed = none_failed and finding.passed is not False
    return none_failed


@dataclass(frozen=True)
class _State:
    """The facts about a model that patching and unpatching must not change."""

    logits: Tensor
    keys: list[str]
    classes: dict[str, type[nn.Module]]

    @classmethod
    def of(cls, model: nn.Module, batch: Batch) -> _State:
        classes = {name: type(module) for name, module in model.named_modules()}
        return cls(logits(model, batch), list(model.state_dict()), classes)


def _steering_method(model: nn.Module) -> tuple[Finding, list[str]]:
    """Return how `patch` steers the model, and the kinds of sites it offers. Raises as `patch`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FaststeerWarning)
        with patch(model) as patched:
            kinds = {site.kind for site in patched.plan.tables}
            decoder = type(patched.decoder).__name__
    ours = [str(each.message) for each in caught if issubclass(each.category, FaststeerWarning)]
    method = "; ".join(ours) or f"a {decoder}, fused"
    return Finding("steering method", None, method), [kind for kind in SITES if kind in kinds]


@contextmanager
def _patched(model: nn.Module) -> Iterator[Patched]:
    """Patch without the warnings that `_steering_method` has reported already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaststeerWarning)
        patched = patch(model)
    patched.plan.doses.judged = False  # the probes steer with 16 times the stream's norm on purpose
    with patched:
        yield patched


def _steer(patched: Patched, steering: Steering) -> list[Handle]:
    return [patched.steer(vector, coefficient) for vector, coefficient in steering]


def _live_coefficient(
    model: nn.Module,
    patched: Patched,
    steering: Steering,
    handles: list[Handle],
    steered: Tensor,
    batch: Batch,
) -> Finding:
    """Compare a coefficient that is changed with one that is given; leaves the model steered."""
    vector, coefficient = steering[-1]
    handles[-1].coefficient = -coefficient / 2
    changed = logits(model, batch)
    patched.clear()
    _steer(patched, [*steering[:-1], (vector, -coefficient / 2)])
    finding = _bit_for_bit("coefficient is live", changed, logits(model, batch))
    if torch.equal(changed, steered):
        return Finding(finding.name, False, "setting it changed nothing")
    return finding


def _bit_for_bit(name: str, ours: Tensor, theirs: Tensor) -> Finding:
    different = int((ours != theirs).sum())
    measured = f"{different} of {ours.numel():,} logits differ (limit 0)"
    return Finding(name, different == 0, measured)


def _exact_undo(after: _State, before: _State) -> Finding:
    bits = _bit_for_bit("exact undo", after.logits, before.logits)
    keys, classes = after.keys == before.keys, after.classes == before.classes
    measured = f"{bits.measured}, state_dict keys {'equal' if keys else 'DIFFER'}"
    measured += f", classes {'restored' if classes else 'NOT restored'}"
    return Finding(bits.name, bool(bits.passed) and keys and classes, measured)


def _same_tokens(ours: Tensor, theirs: Tensor, half: bool) -> Finding:
    """Compare generated tokens; no verdict in half precision, where rounding breaks near-ties."""
    leading = (ours == theirs).cumprod(-1).sum(-1)
    whole = int((leading == _NEW_TOKENS).sum())
    measured = f"{whole} of {len(leading)} texts equal stock's for {_NEW_TOKENS} tokens"
    if whole < len(leading):
        measured += f"; the first to differ does so after {int(leading.min())}"
    return Finding("greedy tokens", None if half else torch.equal(ours, theirs), measured)
