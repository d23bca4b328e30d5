"""Whether the patch does what it says on a user's own model: measured numbers against limits.

In float32 a fixed limit tells a mistake from rounding. In half precision it cannot: any two correct
programs differ by what the model makes of their roundings. There the model is also evaluated in
float32, and the patched model may not be farther from that than the stock one is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn

from faststeer import bench
from faststeer.baselines import Steering, random_vector, steer_with_hooks, typical_norms
from faststeer.batches import Batch, device_of, greedy_tokens, left_padded, logits, random_ids
from faststeer.loading import Loaded
from faststeer.patching import Handle, Patched, patch

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived a clockmaker who",
    "def mean(values):\n    return",
    "Water boils at 100 degrees Celsius at sea level. On a high mountain it boils at a lower",
)
_RANDOM_LENGTHS = (5, 17, 11, 24)
_NEW_TOKENS = 32

LARGEST_COPY = 10**9  # parameters: 4 GB in float32
IDLE_LIMIT = 1e-4
STEERED_LIMIT = 1e-3
HALF_LIMIT = 5e-2
DISTANCE_LIMIT = 1.1

_DOSE = 0.3  # a vector's norm as a share of the residual stream's: strong, as users steer
_COEFFICIENTS = {"resid_pre": 1.0, "resid_mid": -0.75, "resid_post": 1.5}


@dataclass(frozen=True)
class Finding:
    """One line: what was checked, what came out, and whether that is right; None: no judgement."""

    name: str
    passed: bool | None
    measured: str


def check(loaded: Loaded) -> Iterator[Finding]:
    """Patch, steer and unpatch `loaded`'s model and compare with stock, a finding at a time.

    Raises:
        ValueError: `patch` refuses the model.
    """
    model, batch = loaded.model, _built_in_batch(loaded)
    before = _State.of(model, batch)
    patch(model).unpatch()  # refuses before anything takes long
    half = next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
    wide = copy.deepcopy(model).float() if half and _size(model) <= LARGEST_COPY else None
    yield _yardstick(model, half, wide is not None)

    exact = None if wide is None else logits(wide, batch)
    tokens = None if loaded.tokenizer is None else greedy_tokens(model, batch, _NEW_TOKENS)
    steering = _random_steering(model, batch)
    with steer_with_hooks(model, steering):
        hooked = logits(model, batch)
    exact_hooked = None
    if wide is not None:
        with steer_with_hooks(wide, steering):
            exact_hooked = logits(wide, batch)
        del wide

    with patch(model) as patched:
        idle = logits(model, batch)
        unit = _rms(before.logits)
        limit = HALF_LIMIT if half else IDLE_LIMIT
        passed, measured = _compared(idle, before.logits, "stock", exact, unit, limit)
        equal = int((idle.argmax(-1) == before.logits.argmax(-1)).sum())
        measured += f"; top-1 equal at {equal} of {len(idle)} positions"
        yield Finding("idle parity", passed and (half or equal == len(idle)), measured)

        handles = _steer(patched, steering)
        effect = _rms(hooked - before.logits)
        limit = HALF_LIMIT if half else STEERED_LIMIT
        steered = logits(model, batch)
        passed, measured = _compared(steered, hooked, "hooks", exact_hooked, effect, limit)
        measured += f"; the effect is {effect / unit:.2g} of the logits"
        yield Finding("steered equals a hook", passed, measured)

        yield _live_coefficient(model, patched, steering, handles, steered, batch)
        with patched.off():
            yield _bit_for_bit("off() is idle", logits(model, batch), idle)
        patched.clear()
        if tokens is not None:
            yield _same_tokens(greedy_tokens(model, batch, _NEW_TOKENS), tokens, half)
    yield _exact_undo(_State.of(model, batch), before)
    yield from _costs(model)


def show(loaded: Loaded, console: Console) -> bool:
    """Print the findings as they come in; whether none failed."""
    styles = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("info", "dim")}
    good = True
    for finding in check(loaded):
        word, style = styles[finding.passed]
        line = Text.assemble((word, style), f"  {finding.name}: {finding.measured}")
        console.print(line, soft_wrap=True)
        good = good and finding.passed is not False
    return good


@dataclass(frozen=True)
class _State:
    """What patching and unpatching may not change."""

    logits: Tensor
    keys: list[str]
    classes: dict[str, type[nn.Module]]

    @classmethod
    def of(cls, model: nn.Module, batch: Batch) -> _State:
        classes = {name: type(module) for name, module in model.named_modules()}
        return cls(logits(model, batch), list(model.state_dict()), classes)


def _built_in_batch(loaded: Loaded) -> Batch:
    device = device_of(loaded.model)
    if loaded.tokenizer is None:
        ids = random_ids(loaded.model, len(_RANDOM_LENGTHS), max(_RANDOM_LENGTHS)).tolist()
        rows = [own[:length] for own, length in zip(ids, _RANDOM_LENGTHS, strict=True)]
    else:
        rows = [loaded.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    return left_padded(rows, 0, device)


def _random_steering(model: nn.Module, batch: Batch) -> Steering:
    """A vector for each site, at layers first, middle and last; some meet in one place."""
    norms = typical_norms(model, batch)
    count = len(norms)
    ends = {0, count // 2, count - 1}
    # resid_pre of layer L is resid_post of layer L-1.
    layers = {"resid_pre": {0} | {layer + 1 for layer in ends} & set(range(count))}
    hidden_size: int = model.config.hidden_size  # type: ignore[union-attr, assignment]
    steering = []
    for seed, (site, coefficient) in enumerate(_COEFFICIENTS.items()):
        doses = {layer: _DOSE * norms[layer] for layer in sorted(layers.get(site, ends))}
        vector = random_vector(f"random {site}", doses, hidden_size, seed, site)
        steering.append((vector, coefficient))
    return steering


def _steer(patched: Patched, steering: Steering) -> list[Handle]:
    return [patched.steer(vector, coefficient) for vector, coefficient in steering]


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _compared(
    ours: Tensor, theirs: Tensor, who: str, exact: Tensor | None, unit: float, limit: float
) -> tuple[bool, str]:
    """Whether `ours` is as good as `theirs`, by distance from `exact` where that is known."""
    if exact is None:
        difference = _rms(ours - theirs) / unit
        return difference <= limit, f"RMS difference {difference:.2g} (limit {limit:g})"
    distance, allowed = _rms(ours - exact) / unit, _rms(theirs - exact) / unit
    measured = (
        f"RMS {distance:.4g} off float32 (limit {DISTANCE_LIMIT:g} times {who}, {allowed:.4g})"
    )
    return distance <= DISTANCE_LIMIT * allowed, measured


def _yardstick(model: nn.Module, half: bool, copied: bool) -> Finding:
    size, dtype = _size(model), str(next(model.parameters()).dtype).removeprefix("torch.")
    if not half:
        how = "fixed limits"
    elif copied:
        how = "the distance from a float32 evaluation of the same weights"
    else:
        how = f"a wide fixed limit, for over {LARGEST_COPY:,} parameters are not copied to float32"
    return Finding("yardstick", None, f"{how}; {size:,} parameters in {dtype}")


def _live_coefficient(
    model: nn.Module,
    patched: Patched,
    steering: Steering,
    handles: list[Handle],
    steered: Tensor,
    batch: Batch,
) -> Finding:
    """Set a coefficient, then steer anew with it; ends steered."""
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
    """In half precision only told: where two tokens are nearly as likely, rounding decides."""
    leading = (ours == theirs).cumprod(-1).sum(-1).tolist()
    measured = f"the first {', '.join(map(str, leading))} of {_NEW_TOKENS} equal stock's"
    return Finding("greedy tokens", None if half else torch.equal(ours, theirs), measured)


def _costs(model: Any) -> Iterator[Finding]:
    variants = {"stock": model}
    variants["steered"] = bench.steered_twin(model, bench.vectors_on_all_layers(model, 4))
    ids = random_ids(model, 1, 128)
    for name, samples in (
        ("prefill of 128 tokens", bench.prefill(variants, ids, 5, lambda _: None)),
        ("decode step", bench.decode(variants, ids, 8, 5, lambda _: None)),
    ):
        stock, steered = (samples.median(variant) * 1e3 for variant in variants)
        ratio = samples.speedup("stock", over="steered")
        measured = f"{stock:.2f} ms stock, {steered:.2f} ms with 4 vectors on every layer"
        yield Finding(f"what it costs, {name}", None, f"{measured}: {ratio:.3f} times the time")
