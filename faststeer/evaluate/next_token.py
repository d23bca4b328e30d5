"""How well the next token of given texts is predicted: accuracy, perplexity, distance (KL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.evaluate.lm_head import LMHead
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings, Runs
from faststeer.evaluate.texts import encode, in_batches, warn_of_missing_bos
from faststeer.models.text_calls import context_of, decoder_of
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance

FIRST_OF = 10
_NAMES = ("tokens", "top1", "top10", "surprise", "divergence")


@dataclass(frozen=True)
class TokenScores:
    """Teacher-forced scores of N texts, all their tokens but the first. Sums of each text, ``[N]``.

    `tokens`, and of them those that were the likeliest, `top1`, or among the ten likeliest,
    `top10`, int64. Of tokens that are equally likely the first in the vocabulary counts for `top1`;
    for `top10` fewer than ten have to be likelier. `surprise`: negative log-likelihood, and
    `divergence`: KL(unsteered || steered), in nats, float64; the latter is NaN where there was no
    unsteered run.
    """

    tokens: Tensor
    top1: Tensor
    top10: Tensor
    surprise: Tensor
    divergence: Tensor

    @property
    def accuracy(self) -> float:
        """The share of tokens that were the likeliest, all texts' tokens being equal."""
        return int(self.top1.sum()) / int(self.tokens.sum())

    @property
    def accuracy10(self) -> float:
        """The share of tokens that were among the ten likeliest."""
        return int(self.top10.sum()) / int(self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise a token; infinite where that is more than a float can hold."""
        mean = float(self.surprise.sum()) / int(self.tokens.sum())
        return math.exp(mean) if mean < math.log(torch.finfo(torch.float64).max) else math.inf

    @property
    def kl(self) -> float:
        """The mean divergence a token, in nats."""
        return float(self.divergence.sum()) / int(self.tokens.sum())

    def chosen(self, texts: Sequence[int]) -> TokenScores:
        """The scores of some of the texts; one may be there several times."""
        at = torch.as_tensor(texts)
        return TokenScores(*(values[at] for values in self._values()))

    def items(self) -> dict[str, list[float | None]]:
        """The sums of each text, for files; None for what is not finite."""
        return {
            name: [value if math.isfinite(value) else None for value in values.tolist()]
            for name, values in zip(_NAMES, self._values(), strict=True)
        }

    @classmethod
    def from_items(cls, items: dict[str, list[Any]]) -> TokenScores:
        """What `items` gave."""
        counts = [torch.tensor(items[name]) for name in _NAMES[:3]]
        sums = [
            torch.tensor([math.nan if v is None else v for v in items[name]], dtype=torch.float64)
            for name in _NAMES[3:]
        ]
        return cls(*counts, *sums)

    def _values(self) -> tuple[Tensor, ...]:
        return self.tokens, self.top1, self.top10, self.surprise, self.divergence


def token_scores(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_size: int = 8,
) -> TokenScores:
    """The scores of a model as it stands, steered or not; `kl` is not known.

    Args:
        model: a causal model.
        tokenizer: its tokenizer; texts are padded on its side, which changes nothing.
        texts: one document each, with the special tokens that the tokenizer adds.
        max_length: texts are cut after so many tokens.
        batch_size: texts a forward.

    Raises:
        ValueError: no texts, one without two tokens or longer than the model's context, or a model
            that does not end in a plain output embedding.
    """
    encoded = ScoredTexts(model, tokenizer, texts, max_length)
    return encoded.scores(CurrentSteering(model), batch_size)[0]


def token_scores_by_setting(
    patched: Patched,
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    settings: Sequence[Row],
    *,
    max_length: int | None = None,
    batch_size: int = 8,
    at_once: int = 8,
    advance: Advance = lambda steps: None,
) -> tuple[TokenScores, list[TokenScores]]:
    """The unsteered scores, and those under each setting, as `Patched.rows` takes them.

    What lies below the first steered layer is computed once for all settings. Arguments and errors
    are those of `token_scores`; `at_once` settings share a forward; `advance` is told how many
    pairs of a text and a setting are done.
    """
    runs = ManySettings(patched, settings, at_once)
    *steered, unsteered = ScoredTexts(model, tokenizer, texts, max_length).scores(
        runs, batch_size, advance
    )
    return unsteered, steered


class ScoredTexts:
    """Encoded texts, for scores under several kinds of runs."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: Sequence[str],
        max_length: int | None,
    ) -> None:
        """Arguments and errors as for `token_scores`."""
        texts = texts if isinstance(texts, str) else list(texts)
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts is {texts!r}; expected several")
        self.rows = encode(tokenizer, texts, max_length, context_of(decoder_of(model)))
        self.tokenizer = tokenizer
        self.head = LMHead(model)
        warn_of_missing_bos(model, tokenizer, self.rows)

    def scores(
        self, runs: Runs, batch_size: int, advance: Advance = lambda steps: None
    ) -> list[TokenScores]:
        """Of each setting, and last of the unsteered run, where there is one."""
        counts = torch.zeros(3, runs.lines, len(self.rows), dtype=torch.int64)
        sums = torch.zeros(2, runs.lines, len(self.rows), dtype=torch.float64)
        if not runs.beside_unsteered:
            sums[1] = math.nan
        for numbers, batch in in_batches(self.rows, self.tokenizer, batch_size, runs.calls):
            predicting, targets, texts = _predictions(batch)
            at = torch.tensor(numbers)[texts.cpu()]
            counts[0] += _by_text(torch.ones(1, len(at), dtype=torch.int64), at, len(self.rows))
            unsteered: Tensor | None = None
            for run in runs.over(batch, predicting):
                found = _counted(self.head, run.hidden, targets, unsteered)
                hits = _by_text(found[:2].long(), at, len(self.rows))
                nats = _by_text(found[2:].double(), at, len(self.rows))
                if runs.beside_unsteered and unsteered is None:
                    unsteered = run.hidden[0]
                    nats[1] = 0  # of itself
                where = torch.tensor(run.numbers)
                counts[1:, where] += hits
                sums[:, where] += nats
            advance((runs.lines - runs.beside_unsteered) * len(numbers))
        return [
            TokenScores(tokens, top1, top10, surprise, divergence)
            for (tokens, top1, top10), (surprise, divergence) in zip(
                counts.unbind(1), sums.unbind(1), strict=True
            )
        ]


def _predictions(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens predict one ``[B, T]``, and of these the next token and the text, ``[P]``."""
    predicting = torch.zeros_like(batch.real)
    predicting[:, :-1] = batch.real[:, :-1] & batch.real[:, 1:]
    following = batch.ids.roll(-1, 1)
    texts = torch.arange(len(batch.ids), device=batch.ids.device)[:, None].expand_as(batch.ids)
    return predicting, following[predicting], texts[predicting]


def _by_text(values: Tensor, at: Tensor, texts: int) -> Tensor:
    """Sums ``[..., N]`` of values ``[..., P]`` over each text's tokens."""
    return values.new_zeros(*values.shape[:-1], texts).index_add_(-1, at, values)


@torch.inference_mode()
def _counted(head: LMHead, hidden: Tensor, targets: Tensor, unsteered: Tensor | None) -> Tensor:
    """Of each token under each setting ``[4, S, P]`` float32 on the CPU: hits, surprise, KL."""
    found = torch.full((4, *hidden.shape[:2]), math.nan)
    for piece in head.pieces(len(targets)):
        target = targets[piece, None]
        if unsteered is not None:
            before = head.logits(unsteered[piece]).float()
            before -= before.logsumexp(-1, keepdim=True)
            weights = before.exp()
        for setting, own in enumerate(hidden[:, piece]):
            logits = head.logits(own).float()
            given = logits.gather(1, target.to(logits.device))[:, 0]
            # Half the time of counting which are likelier, over 49,152 logits on a CPU.
            best = logits.topk(min(FIRST_OF, logits.shape[1])).values
            normaliser = logits.logsumexp(-1)
            top1 = given >= best[:, 0]
            tied = top1 & (best[:, 0] == best[:, 1])
            if tied.any():
                first = logits[tied].argmax(-1)
                top1[tied] = first == target.to(logits.device)[tied, 0]
            found[0, setting, piece] = top1.float().cpu()
            found[1, setting, piece] = (given >= best[:, -1]).float().cpu()
            found[2, setting, piece] = (normaliser - given).cpu()
            if unsteered is not None:
                logits -= before
                further = -torch.linalg.vecdot(weights, logits) + normaliser
                found[3, setting, piece] = further.clamp(min=0).cpu()
    return found
