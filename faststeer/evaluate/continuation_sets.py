"""How likely a model continues in one of two ways, each told by a set of continuations.

The mass of a set is the probability that the text begins with one of its continuations, which may
have several tokens. The matching probability is the mass of the one set over that of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.encoding import token_ids
from faststeer.data.trait_files import OpenPrompt
from faststeer.evaluate.read_tokens import ReadTokens, TokenRead
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings, SettingRunner
from faststeer.evaluate.texts import encode_texts
from faststeer.models.text_calls import context_of, decoder_of
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance


@dataclass(frozen=True)
class SetScores:
    """Log-masses of the two sets of N prompts in nats, ``[N]`` float64."""

    log_positive: Tensor
    log_negative: Tensor

    @property
    def by_prompt(self) -> Tensor:
        """The matching probabilities ``[N]``; NaN where neither set has any mass."""
        return (self.log_positive - self.log_negative).sigmoid()

    @property
    def probability(self) -> float:
        """The mean matching probability."""
        return float(self.by_prompt.mean())

    @property
    def mass(self) -> float:
        """The mean probability that the model continues in either way."""
        return float(torch.logaddexp(self.log_positive, self.log_negative).exp().mean())

    def items(self) -> dict[str, list[float | None]]:
        """Return each field as a list for JSON; a value that is not finite becomes None."""
        both = {"log_positive": self.log_positive, "log_negative": self.log_negative}
        return {
            name: [value if math.isfinite(value) else None for value in values.tolist()]
            for name, values in both.items()
        }

    @classmethod
    def from_items(cls, items: dict[str, list[float | None]]) -> SetScores:
        """Restore the scores from the result of `items`; None becomes NaN."""
        return cls(
            *(
                torch.tensor(
                    [math.nan if v is None else v for v in items[name]], dtype=torch.float64
                )
                for name in ("log_positive", "log_negative")
            )
        )


def set_scores(
    model: nn.Module, tokenizer: Any, prompts: Sequence[OpenPrompt], *, batch_size: int = 16
) -> SetScores:
    """Return a model's scores on prompts, under its active steering.

    Args:
        model: a causal model, patched or not.
        tokenizer: its tokenizer; the side on which it pads does not matter.
        prompts: each with its two sets of continuations.
        batch_size: texts per forward pass; a prompt is one, and each beginning of a continuation
            of several tokens is another.

    Raises:
        ValueError: no prompts, a prompt of under two tokens, a set without continuations, a
            continuation that changes the tokens of its prompt or adds none, one that begins with
            another one of the two sets, whose mass would count twice, a text longer than the
            model's context, or a model whose logits are not those of a plain output embedding.
    """
    return OpenPrompts(model, tokenizer, prompts).scores(CurrentSteering(model), batch_size)[0]


def set_scores_by_setting(
    patched: Patched,
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[OpenPrompt],
    settings: Sequence[Row],
    *,
    batch_size: int = 16,
    at_once: int = 8,
    advance: Advance = lambda steps: None,
) -> tuple[SetScores, list[SetScores]]:
    """Return the unsteered scores, and those under each setting.

    The layers below the first steered one run once for all settings.

    Args:
        patched: the patched model, whose handles the settings name.
        model: as for `set_scores`.
        tokenizer: as for `set_scores`.
        prompts: as for `set_scores`.
        settings: as `Patched.rows` accepts them.
        batch_size: texts per forward pass and setting.
        at_once: settings per forward pass.
        advance: called with the number of (text, setting) pairs completed.

    Raises:
        TypeError: as `Patched.rows`.
        ValueError: as `set_scores` and `Patched.rows`.
    """
    runner = ManySettings(patched, settings, at_once)
    *steered, unsteered = OpenPrompts(model, tokenizer, prompts).scores(runner, batch_size, advance)
    return unsteered, steered


class OpenPrompts:
    """Encoded prompts with their continuations, to be scored under settings.

    The texts to run are each prompt with the beginning of each continuation of several tokens. A
    token of a continuation is read where the first text that begins like it predicts it.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, prompts: Sequence[OpenPrompt]) -> None:
        """Encode the prompts; arguments and errors are those of `set_scores`."""
        if not prompts:
            raise ValueError("got no prompts; at least one is needed")
        context = context_of(decoder_of(model))
        encoded = encode_texts(tokenizer, [own.prompt for own in prompts], None, context)
        rows: list[list[int]] = []
        reads: list[list[TokenRead]] = []  # by text
        self.sets: list[tuple[list[int], list[int]]] = []  # continuations of a prompt's two sets
        self.texts_of: list[range] = []  # by prompt
        continuations = 0
        for number, (own, prompt) in enumerate(zip(prompts, encoded, strict=True)):
            ends = [_ends(tokenizer, number, own, side, prompt) for side in (1, 2)]
            _require_apart(number, own, ends)
            every = [end for side in ends for end in side]
            if context is not None and len(prompt) + max(map(len, every)) > context:
                raise ValueError(
                    f"prompt {number} and a continuation have more tokens than the model's "
                    f"context, {context}"
                )
            texts = _texts(prompt, every, len(rows), continuations)
            self.texts_of.append(range(len(rows), len(rows) + len(texts)))
            rows += [row for row, _ in texts]
            reads += [own for _, own in texts]
            at = continuations + len(ends[0])
            continuations += len(every)
            self.sets.append((list(range(at - len(ends[0]), at)), list(range(at, continuations))))
        self.texts = ReadTokens(model, tokenizer, rows, reads, continuations)

    def scores(
        self, runner: SettingRunner, batch_size: int, advance: Advance = lambda steps: None
    ) -> list[SetScores]:
        """Return the scores under each setting, the unsteered ones last if the runner has them."""
        logs = self.texts.sums(runner, batch_size, advance)
        return [SetScores(*both) for both in zip(*self.masses(logs), strict=True)]

    def masses(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-masses of both sets ``[..., N]``, of those of continuations."""
        positive, negative = (
            torch.stack([logs[..., own[side]].logsumexp(-1) for own in self.sets], -1)
            for side in (0, 1)
        )
        return positive, negative


def _texts(
    prompt: list[int], ends: Sequence[list[int]], text: int, continuation: int
) -> list[tuple[list[int], list[TokenRead]]]:
    """Return the texts that predict every token of a prompt's continuations, with their reads.

    `text` and `continuation` are the numbers of the first.
    """
    beginnings = sorted({tuple(end[:-1]) for end in ends})
    # In order, a beginning of others stands before them, the next of which contains it.
    whole = [
        own
        for own, following in zip(beginnings, [*beginnings[1:], ()], strict=True)
        if following[: len(own)] != own or not following
    ]
    reads: list[list[TokenRead]] = [[] for _ in whole]
    for number, end in enumerate(ends, continuation):
        for at, token in enumerate(end):
            line = next(n for n, own in enumerate(whole) if own[:at] == tuple(end[:at]))
            reads[line].append(TokenRead(text + line, len(prompt) - 1 + at, token, number))
    return [([*prompt, *own], read) for own, read in zip(whole, reads, strict=True)]


def _ends(
    tokenizer: Any, number: int, own: OpenPrompt, side: int, prompt: list[int]
) -> list[list[int]]:
    """Return the tokens that each continuation of a set adds to a prompt."""
    found = []
    for text in own[side]:
        ids, _ = token_ids(tokenizer, own.prompt + text)
        if ids[: len(prompt)] != prompt or len(ids) == len(prompt):
            raise ValueError(
                f"prompt {number}, {own.prompt!r}: the continuation {text!r} changes the tokens of "
                "the prompt, or adds none; let it begin with a space, and the prompt not end in one"
            )
        found.append(ids[len(prompt) :])
    if not found:
        raise ValueError(f"prompt {number}, {own.prompt!r}: a set has no continuations")
    return found


def _require_apart(number: int, own: OpenPrompt, ends: Sequence[list[list[int]]]) -> None:
    """Raise ValueError where one continuation begins with another: it would count twice."""
    named = [
        (end, text)
        for side, texts in zip(ends, own[1:], strict=True)
        for end, text in zip(side, texts, strict=True)
    ]
    named.sort(key=lambda both: both[0])
    for (first, text), (second, other) in pairwise(named):
        if second[: len(first)] == first:
            raise ValueError(
                f"prompt {number}, {own.prompt!r}: the continuation {other!r} begins with another "
                f"one, {text!r}, and its probability would count twice"
            )
