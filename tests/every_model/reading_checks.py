"""Compare capture, activations and extract with states that plain hooks store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import faststeer
from every_model.calls import Amount, Prompts, Unreadable
from every_model.hooks import keeping
from every_model.outcomes import RIGHT, STOCK, VOID, WRONG, Finding, judged
from every_model.runs import logits_of, step_logits
from every_model.subject import STEERED, Subject, random_tokens

LIMIT = 1e-5  # largest accepted error: batches of another shape are summed in another order
LENGTHS = (5, 9, 7, 6)


class Words:
    """Tokenizer for texts that consist of token ids."""

    pad_token_id = 0
    bos_token_id = None

    def __call__(self, text: str, **how: Any) -> dict[str, list[int]]:
        """Return the ids in `text`."""
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`."""
        return " ".join(map(str, ids))


def reading_checks(subject: Subject) -> Iterator[Finding]:
    """Yield the findings for capture, activations and extract."""
    yield _captured(subject)
    yield _captured_in_generate(subject)
    yield _activations(subject)
    yield _extracted(subject)


def _real(row: int, position: int | None, length: int) -> float:
    return float(position is not None)


def _generated(row: int, position: int | None, length: int) -> float:
    return float(position is not None and position >= length)


def _kept(subject: Subject, run: Any, amount: Amount) -> dict[int, Tensor]:
    """Return, per layer, the rows ``[N, ..., H]`` that hooks store during `run`."""
    kept: dict[int, list[Tensor]] = {layer: [] for layer in STEERED}
    run([(subject.blocks[layer], keeping(own, amount)) for layer, own in kept.items()])
    return {layer: torch.cat(own) for layer, own in kept.items()}


def _captured(subject: Subject) -> Finding:
    def run(edits: Any) -> None:
        logits_of(subject.model, subject.padded, edits)

    return _moments(subject, "capture", run, _real, lambda *_: 1.0, "all")


def _captured_in_generate(subject: Subject) -> Finding:
    check = "capture: generated"
    reason = subject.cannot_generate(subject.padded)
    if reason is not None:
        return Finding(check, STOCK, message=reason)

    def run(edits: Any) -> None:
        step_logits(subject.model, subject.padded, subject.continuation, edits)

    return _moments(subject, check, run, _generated, _real, "generated")


def _moments(
    subject: Subject, check: str, run: Any, amount: Amount, wrong: Amount, positions: str
) -> Finding:
    try:
        states, others = _kept(subject, run, amount), _kept(subject, run, wrong)
    except Unreadable:
        states, others = {}, {}
    except Exception as error:
        return Finding(check, STOCK, message=f"{type(error).__name__}: {error}")
    try:
        with faststeer.capture(subject.model, layers=STEERED, positions=positions) as moments:
            run(())
    except Exception as error:
        return judged(check, error, subject.model)
    if not states:
        return Finding(check, WRONG, message="not refused, though blocks do not show tokens")
    worst = 0.0
    for layer, own in states.items():
        tokens, rows = len(own), own.double().flatten(0, -2)
        spread = float(rows.std())
        wrong_mean = others[layer].double().flatten(0, -2).mean(0)
        if float((wrong_mean - rows.mean(0)).abs().max()) < 1e-3 * spread:
            return Finding(check, VOID, message="other tokens have the same mean")
        count = int(moments[layer].count[0])
        if count not in (tokens, len(rows)):
            return Finding(check, WRONG, message=f"counted {count} tokens of {tokens}")
        mean = float((moments[layer].mean[0] - rows.mean(0)).abs().max()) / spread
        variance = rows.var(0, correction=0)
        off = float((moments[layer].variance[0] - variance).abs().max()) / spread**2
        worst = max(worst, mean, off)
    outcome = RIGHT if worst <= LIMIT else WRONG
    return Finding(check, outcome, worst, "" if outcome == RIGHT else f"off by {worst:.1e}")


def _alone(subject: Subject, ids: list[int]) -> Tensor:
    """Return the states ``[L, ..., H]`` at the last token of one text, run by itself."""
    text = torch.tensor([ids])
    prompts = Prompts(text, torch.ones_like(text), subject.even.lines)

    def run(edits: Any) -> None:
        logits_of(subject.model, prompts, edits)

    found = _kept(subject, run, lambda row, p, n: float(p == n - 1))
    return torch.stack([own[0] for own in found.values()])


def _activations(subject: Subject) -> Finding:
    check = "activations"
    texts = [random_tokens(n, seed=20 + n).tolist() for n in LENGTHS]
    try:
        expected = torch.stack([_alone(subject, ids) for ids in texts])
    except Unreadable:
        expected = None
    except Exception as error:
        return Finding(check, STOCK, message=f"{type(error).__name__}: {error}")
    written = [" ".join(map(str, ids)) for ids in texts]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = faststeer.activations(
                subject.model, Words(), written, layers=STEERED, progress=False
            )
    except Exception as error:
        return judged(check, error, subject.model)
    return _compared(check, found, expected, lambda e: (e - e.mean(0)).abs().max(), caught)


def _extracted(subject: Subject) -> Finding:
    check = "extract"
    pairs = []
    for n in LENGTHS:
        shared = random_tokens(3, seed=40 + n).tolist()
        ends = [random_tokens(n - side, seed=50 + 2 * n + side).tolist() for side in (0, 1)]
        pairs.append([shared + end for end in ends])
    try:
        states = [[_alone(subject, ids) for ids in pair] for pair in pairs]
        expected = torch.stack([own[0] - own[1] for own in states]).mean(0)
    except Unreadable:
        expected = None
    except Exception as error:
        return Finding(check, STOCK, message=f"{type(error).__name__}: {error}")
    written = [tuple(" ".join(map(str, ids)) for ids in pair) for pair in pairs]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            vector = faststeer.extract(
                subject.model, Words(), written, layers=STEERED, progress=False
            )
    except Exception as error:
        return judged(check, error, subject.model)
    found = torch.stack([vector.directions[layer] for layer in STEERED])
    return _compared(check, found, expected, lambda e: e.abs().max(), caught)


def _compared(
    check: str, found: Tensor, expected: Tensor | None, scale: Any, caught: list[Any]
) -> Finding:
    if expected is None:
        return Finding(check, WRONG, message="not refused, though blocks do not show tokens")
    if found.shape != expected.shape:
        message = f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
        return Finding(check, WRONG, message=message)
    error = float((found - expected).abs().max() / scale(expected))
    if error <= LIMIT:
        return Finding(check, RIGHT, error)
    messages = [str(one.message) for one in caught if one.category is faststeer.FaststeerWarning]
    warned = [text for text in messages if "padding" in text]
    if warned:
        return Finding(check, RIGHT, error, f"with a warning: {warned[0]}")
    return Finding(check, WRONG, error, f"off by {error:.1e}")
