"""What a vector is to move: items, each of which has a score in nats under every setting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from faststeer.data.encoding import token_ids
from faststeer.data.questions import Choice
from faststeer.data.shipped import HeldOut
from faststeer.data.trait_files import OpenPrompt
from faststeer.evaluate.continuation_sets import OpenPrompts
from faststeer.evaluate.read_tokens import ReadTokens, TokenRead
from faststeer.evaluate.setting_runs import ManySettings
from faststeer.evaluate.tasks import Subject
from faststeer.extraction.examples import NEGATIVE, POSITIVE, Example
from faststeer.models.text_calls import context_of, decoder_of
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance

Scorer: TypeAlias = Callable[[nn.Module, Any], Tensor]
Items: TypeAlias = Sequence[tuple[str, str] | OpenPrompt | Choice | HeldOut]


class Objective(ABC):
    """Items that are scored under settings; a score is higher the more an item is positive."""

    count: int

    @abstractmethod
    def measure(
        self, subject: Subject, settings: Sequence[Row], advance: Advance = lambda steps: None
    ) -> Tensor:
        """Return scores ``[S + 1, N]`` float64 in nats, the unsteered ones last.

        `advance` is called with the number of (item, setting) pairs completed.
        """


class TextObjective(Objective):
    """Items that are scored by the log-probabilities of tokens in given texts.

    `texts_of` holds the numbers of the texts of each item.
    """

    texts: ReadTokens
    texts_of: Sequence[Sequence[int]]

    @abstractmethod
    def scores(self, logs: Tensor) -> Tensor:
        """Return the items' scores ``[..., N]`` of the log-probabilities of all continuations."""

    def measure(
        self, subject: Subject, settings: Sequence[Row], advance: Advance = lambda steps: None
    ) -> Tensor:
        """See `Objective`."""
        runner = ManySettings(subject.patched, settings, subject.at_once)
        found = self.scores(self.texts.sums(runner, subject.batch_size))
        advance(len(settings) * self.count)
        return found


class PromptItems(TextObjective):
    """Prompts with two sets of continuations: the log of the ratio of their masses."""

    def __init__(self, model: nn.Module, tokenizer: Any, prompts: Sequence[OpenPrompt]) -> None:
        """Encode the prompts. Raises as `evaluate.set_scores`."""
        self.count = len(prompts)
        self._prompts = OpenPrompts(model, tokenizer, prompts)
        self.texts, self.texts_of = self._prompts.texts, self._prompts.texts_of

    def scores(self, logs: Tensor) -> Tensor:
        """See `TextObjective`."""
        positive, negative = self._prompts.masses(logs)
        return positive - negative


class PairItems(TextObjective):
    """Pairs of texts: how much likelier a token of the positive text is than one of the negative.

    Log-probabilities are means per token, over the tokens that the other text has not, after the
    beginning that both share: what both say tells no side. Where a text has no such tokens, over
    all after the beginning.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        pairs: Sequence[tuple[str, str]],
        max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> None:
        """Encode the pairs, truncated to `max_length` tokens.

        Raises:
            ValueError: no pairs, a text longer than the model's context, or a pair of which one
                text is the beginning of the other.
        """
        if not pairs:
            raise ValueError("got no pairs; at least one is needed")
        encode = partial(
            token_ids, tokenizer, add_special_tokens=add_special_tokens, max_length=max_length
        )
        context = context_of(decoder_of(model))
        rows: list[list[int]] = []
        reads: list[list[TokenRead]] = []
        for number, pair in enumerate(pairs):
            both = [encode(text)[0] for text in pair]
            start = max(1, Example(number, pair, (POSITIVE, NEGATIVE), both).shared)
            for ids, other in zip(both, both[::-1], strict=True):
                if len(ids) <= start:
                    cut = "" if max_length is None else f" in their first {max_length} tokens"
                    raise ValueError(
                        f"pair {number}: one text is the beginning of the other{cut}, "
                        f"{pair[0][:60]!r} and {pair[1][:60]!r}; expected texts that differ there"
                    )
                if context is not None and len(ids) > context:
                    raise ValueError(
                        f"pair {number}: a text has {len(ids)} tokens, and the model's context is "
                        f"{context}; max_length={context} truncates longer texts"
                    )
                text = len(rows)
                after = range(start, len(ids))
                own = [at for at in after if ids[at] not in other] or after
                reads.append([TokenRead(text, at - 1, ids[at], text) for at in own])
                rows.append(ids)
        self.count = len(pairs)
        self.texts = ReadTokens(model, tokenizer, rows, reads, len(rows))
        self.texts_of = [(2 * number, 2 * number + 1) for number in range(self.count)]
        self._lengths = torch.tensor([len(own) for own in reads], dtype=torch.float64)

    def scores(self, logs: Tensor) -> Tensor:
        """See `TextObjective`."""
        means = logs / self._lengths.to(logs.device)
        return means[..., ::2] - means[..., 1::2]


class ScoredItems(Objective):
    """Items that a function scores: ``function(model, tokenizer)`` returns ``[N]`` nats."""

    def __init__(self, function: Scorer, items: Sequence[int]) -> None:
        """Take the items of these indices from what the function returns."""
        self.function = function
        self.items = list(items)
        self.count = len(self.items)

    def measure(
        self, subject: Subject, settings: Sequence[Row], advance: Advance = lambda steps: None
    ) -> Tensor:
        """See `Objective`. The function is called once per setting.

        Raises:
            TypeError, ValueError: as `scored`.
        """
        found = []
        for setting in [*settings, {}]:
            with subject.patched.rows([setting]), torch.inference_mode():
                values = scored(self.function, subject.model, subject.tokenizer, not setting)
                found.append(values[self.items])
            advance(self.count if setting else 0)
        return torch.stack(found)


def scored(function: Scorer, model: nn.Module, tokenizer: Any, finite: bool = True) -> Tensor:
    """Return a function's scores ``[N]`` float64 on the CPU.

    Args:
        function: the function.
        model: its first argument.
        tokenizer: its second argument.
        finite: whether scores have to be finite, as those of the unsteered model.

    Raises:
        TypeError: it returned no tensor.
        ValueError: it returned one that is not 1-D, or with numbers that are not finite.
    """
    found: Any = function(model, tokenizer)
    name = getattr(function, "__name__", type(function).__name__)
    if not isinstance(found, Tensor):
        raise TypeError(f"{name}() returned a {type(found).__name__}; expected a tensor [N]")
    if found.dim() != 1 or not len(found) or (finite and not found.isfinite().all()):
        raise ValueError(f"{name}() returned {found!r}; expected [N] finite scores, one per item")
    return found.detach().double().cpu()


def encoded(
    model: nn.Module,
    tokenizer: Any,
    items: Items,
    max_length: int | None,
    add_special_tokens: bool = True,
) -> TextObjective:
    """Return items of one kind as an objective.

    Args:
        model: a causal model.
        tokenizer: its tokenizer.
        items: pairs of texts, `OpenPrompt`, `Choice` or `HeldOut`.
        max_length: of the texts of pairs, in tokens.
        add_special_tokens: to the texts of pairs.

    Raises:
        TypeError: items of another kind, or of several.
        ValueError: as `PairItems` and `PromptItems`.
    """
    if all(isinstance(own, (OpenPrompt, Choice, HeldOut)) for own in items):
        return PromptItems(model, tokenizer, [_prompt(own) for own in items])
    if all(_is_pair(own) for own in items):
        pairs = [own for own in items if _is_pair(own)]
        return PairItems(model, tokenizer, pairs, max_length, add_special_tokens)
    raise TypeError(
        "items are expected to be all pairs of texts, or prompts with continuations, or choices; "
        f"got {sorted({type(own).__name__ for own in items})}"
    )


def _prompt(item: Any) -> OpenPrompt:
    if isinstance(item, HeldOut):
        return OpenPrompt(item.prompt, (item.positive,), (item.negative,))
    if isinstance(item, Choice):
        return OpenPrompt(item.question, (item.matching,), (item.other,))
    prompt: OpenPrompt = item
    return prompt


def _is_pair(item: Any) -> TypeGuard[tuple[str, str]]:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(t, str) for t in item)
