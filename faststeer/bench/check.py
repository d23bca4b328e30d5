"""Whether the patch does what it says on a user's own model: measured numbers against limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn

from faststeer.bench.costs import costs
from faststeer.bench.findings import Finding
from faststeer.bench.hook_baselines import Steering, steer_with_hooks, twin, typical_norms
from faststeer.bench.probes import Probes
from faststeer.bench.tolerance import ParityJudge, rms
from faststeer.data.batches import Batch, left_padded
from faststeer.models.decoders import layers_of
from faststeer.models.inference import device_of, greedy_tokens, logits, random_ids
from faststeer.models.loading import Loaded
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.steering.handles import Handle
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.random import random_vector
from faststeer.vectors.sites import SITES, Site

# Many short ones: tokens of one text share their luck with rounding, texts do not.
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def mean(values):\n    return",
    "On a high mountain water boils at a",
    "Dear Sir or Madam,",
    "To be, or not to be, that is",
    "The three primary colours are red,",
    "SELECT name, price FROM products WHERE",
    "In 1969, the first",
    "My favourite recipe for soup begins with",
    "Q: What is the square root of 144? A:",
    "Breaking news: scientists have",
    "He opened the door slowly, and",
    "import numpy as np\n\nx =",
    "The mitochondria is the",
    "Il était une fois",
)
_NEW_TOKENS = 32

IDLE_LIMIT = 1e-4
STEERED_LIMIT = 1e-3

_DOSE = 0.3  # a vector's norm as a share of the residual stream's: strong, as users steer
_COEFFICIENTS = {"resid_pre": 1.0, "resid_mid": -0.75, "resid_post": 1.5}


def check(loaded: Loaded) -> Iterator[Finding]:
    """Patch, steer and unpatch `loaded`'s model and compare it with stock; yield each finding.

    Raises:
        ValueError: `patch` refuses the model.
    """
    model = loaded.model
    layers_of(model)  # refuses a model that may not even run like this
    batch = _built_in_batch(loaded)
    before = _State.of(model, batch)
    how, kinds = _attachment(model)
    yield how
    stock_twin = twin(model)
    yardstick = ParityJudge(model)
    yield Finding("yardstick", None, str(yardstick))

    steering = _random_steering(model, batch, kinds)
    with steer_with_hooks(model, steering):
        hooked = logits(model, batch)
    exact, exact_hooked = (yardstick.evaluate(batch, by) for by in ([], steering))
    yardstick.forget()
    tokens = None if loaded.tokenizer is None else greedy_tokens(model, batch, _NEW_TOKENS)

    with _patched(model) as patched:
        idle, stock = logits(model, batch), before.logits
        passed, measured = yardstick.compare(idle, stock, exact, rms(stock), IDLE_LIMIT, "stock")
        equal = int((idle.argmax(-1) == stock.argmax(-1)).sum())
        measured += f"; top-1 equal at {equal} of {len(idle)} positions"
        yield Finding("idle parity", passed and (yardstick.half or equal == len(idle)), measured)

        handles = _steer(patched, steering)
        steered, effect = logits(model, batch), rms(hooked - stock)
        passed, measured = yardstick.compare(
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
            yield _same_tokens(ours, tokens, yardstick.half)
        probes = Probes(stock_twin, patched, model, _words(loaded), yardstick.half)
        yield from probes.tokens()
        yield from probes.rows()
    yield _exact_undo(_State.of(model, batch), before)
    yield from costs(model)


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
    if loaded.tokenizer is None:
        ids = random_ids(loaded.model, len(PROMPTS), len(PROMPTS) + 1).tolist()
        rows = [own[row:] for row, own in enumerate(ids)]
    else:
        rows = [loaded.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    if max(map(len, rows)) == len(rows):  # a layer's axes are known by their lengths
        rows.pop()
    return left_padded(rows, 0, device_of(loaded.model))


def _attachment(model: nn.Module) -> tuple[Finding, list[str]]:
    """Return how `patch` steers the model, and the kinds of sites it has. Raises as `patch`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FaststeerWarning)
        with patch(model) as patched:
            kinds = {site.kind for site in patched.plan.tables}
            decoder = type(patched.decoder).__name__
    ours = [str(one.message) for one in caught if issubclass(one.category, FaststeerWarning)]
    how = "; ".join(ours) or f"a {decoder}, fused"
    return Finding("how it is steered", None, how), [kind for kind in SITES if kind in kinds]


@contextmanager
def _patched(model: nn.Module) -> Iterator[Patched]:
    """Patch without the notices that `_attachment` has reported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaststeerWarning)
        patched = patch(model)
    patched.plan.doses.judged = False  # up to 16 times the stream's, on purpose
    with patched:
        yield patched


def _words(loaded: Loaded) -> list[int]:
    """Return different token ids: the prompts' own, or any of the vocabulary."""
    if loaded.tokenizer is not None:
        every = (token for prompt in PROMPTS for token in loaded.tokenizer(prompt)["input_ids"])
        return list(dict.fromkeys(every))
    config: Any = loaded.model.config
    draw = torch.Generator().manual_seed(0)
    own: list[int] = torch.randperm(config.vocab_size, generator=draw).tolist()
    return own * (1 + len(PROMPTS) * len(PROMPTS) // len(own))


def _random_steering(model: nn.Module, batch: Batch, kinds: list[str]) -> Steering:
    """A vector for each kind of site, at layers first, middle and last; some meet in one place."""
    count = len(layers_of(model))
    ends = {0, count // 2, count - 1}
    # resid_pre of layer L is resid_post of layer L-1.
    layers = {"resid_pre": {0} | {layer + 1 for layer in ends} & set(range(count))}
    sites = {(n, kind): Site.of(n, kind) for kind in kinds for n in sorted(layers.get(kind, ends))}
    norms = typical_norms(model, batch, set(sites.values()))
    config: Any = model.config
    hidden_size: int = config.hidden_size
    steering = []
    for seed, kind in enumerate(kinds):
        doses = {n: _DOSE * norms[site] for (n, own), site in sites.items() if own == kind}
        vector = random_vector(f"random {kind}", doses, hidden_size, seed, kind)
        steering.append((vector, _COEFFICIENTS[kind]))
    return steering


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
    leading = (ours == theirs).cumprod(-1).sum(-1)
    whole = int((leading == _NEW_TOKENS).sum())
    measured = f"{whole} of {len(leading)} texts equal stock's for {_NEW_TOKENS} tokens"
    if whole < len(leading):
        measured += f"; the first to differ does so after {int(leading.min())}"
    return Finding("greedy tokens", None if half else torch.equal(ours, theirs), measured)
