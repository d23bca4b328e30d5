"""Next-token prediction on given texts: accuracy, perplexity and KL divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.evaluate.lm_head import LMHead
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings, SettingRunner
from faststeer.evaluate.texts import batches_by_length, encode_texts, warn_of_missing_bos
from faststeer.models.text_calls import context_of, decoder_of
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance

TOP = 10  # tokens that count for `top10`
_NAMES = ("tokens", "top1", "top10", "surprise", "divergence")


@dataclass(frozen=True)
class TokenScores:
    """Teacher-forced scores of N texts, as sums ``[N]`` over each text's tokens but the first.

    `tokens`, `top1` and `top10`, int64, count the predicted tokens, those that were the likeliest
    and those among the ten likeliest. Of equally likely tokens, the first in the vocabulary counts
    for `top1`; a token counts for `top10` if fewer than ten are likelier. `surprise` is the
    negative log-likelihood and `divergence` KL(unsteered || steered), both in nats, float64;
    `divergence` is NaN where the unsteered model was not run.
    """

    tokens: Tensor
    top1: Tensor
    top10: Tensor
    surprise: Tensor
    divergence: Tensor

    @property
    def accuracy(self) -> float:
        """The share of tokens that were the likeliest, over the tokens of all texts."""
        return int(self.top1.sum()) / int(self.tokens.sum())

    @property
    def accuracy10(self) -> float:
        """The share of tokens that were among the ten likeliest."""
        return int(self.top10.sum()) / int(self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise per token; infinite where that overflows a float."""
        mean = float(self.surprise.sum()) / int(self.tokens.sum())
        return math.exp(mean) if mean < math.log(torch.finfo(torch.float64).max) else math.inf

    @property
    def kl(self) -> float:
        """The mean divergence per token, in nats."""
        return float(self.divergence.sum()) / int(self.tokens.sum())

    def chosen(self, texts: Sequence[int]) -> TokenScores:
        """Return the scores of the texts of these indices, which may repeat."""
        at = torch.as_tensor(texts)
        return TokenScores(*(values[at] for values in self._values()))

    def items(self) -> dict[str, list[float | None]]:
        """Return each field as a list for JSON; a value that is not finite becomes None."""
        return {
            name: [value if math.isfinite(value) else None for value in values.tolist()]
            for name, values in zip(_NAMES, self._values(), strict=True)
        }

    @classmethod
    def from_items(cls, items: dict[str, list[Any]]) -> TokenScores:
        """Restore the scores from the result of `items`."""
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
    """Return a model's next-token scores under its active steering; `kl` is NaN.

    Args:
        model: a causal model, patched or not.
        tokenizer: its tokenizer; the side on which it pads does not matter.
        texts: documents; the tokenizer adds its special tokens.
        max_length: texts are truncated to this many tokens.
        batch_size: texts per forward pass.

    Raises:
        ValueError: no texts, a text with fewer than two tokens or more than the model's context, or
            a model whose logits are not those of a plain output embedding.
    """
    scored = ScoredTexts(model, tokenizer, texts, max_length)
    return scored.scores(CurrentSteering(model), batch_size)[0]


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
    """Return the unsteered scores, and those under each setting.

    The layers below the first steered one run once for all settings.

    Args:
        patched: the patched model, whose handles the settings name.
        model: as for `token_scores`.
        tokenizer: as for `token_scores`.
        texts: as for `token_scores`.
        settings: as `Patched.rows` accepts them.
        max_length: as for `token_scores`.
        batch_size: texts per forward pass and setting.
        at_once: settings per forward pass.
        advance: called with the number of (text, setting) pairs completed.

    Raises:
        TypeError: as `Patched.rows`.
        ValueError: as `token_scores` and `Patched.rows`.
    """
    runner = ManySettings(patched, settings, at_once)
    scored = ScoredTexts(model, tokenizer, texts, max_length)
    *steered, unsteered = scored.scores(runner, batch_size, advance)
    return unsteered, steered


class ScoredTexts:
    """Encoded texts, to be scored under settings."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: Sequence[str],
        max_length: int | None,
    ) -> None:
        """Encode the texts; arguments and errors are those of `token_scores`."""
        texts = texts if isinstance(texts, str) else list(texts)
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts is {texts!r}; expected several")
        self.rows = encode_texts(tokenizer, texts, max_length, context_of(decoder_of(model)))
        self.tokenizer = tokenizer
        self.head = LMHead(model)
        warn_of_missing_bos(model, tokenizer, self.rows)

    def scores(
        self, runner: SettingRunner, batch_size: int, advance: Advance = lambda steps: None
    ) -> list[TokenScores]:
        """Return the scores under each setting, the unsteered ones last if the runner has them."""
        counts = torch.zeros(3, runner.num_results, len(self.rows), dtype=torch.int64)
        sums = torch.zeros(2, runner.num_results, len(self.rows), dtype=torch.float64)
        settings = runner.num_results - runner.compares_with_unsteered
        if not runner.compares_with_unsteered:
            sums[1] = math.nan
        batches = batches_by_length(self.rows, self.tokenizer, batch_size, runner.calls)
        for indices, batch in batches:
            predicting, targets, texts = _predictions(batch)
            at = torch.tensor(indices)[texts.cpu()]
            counts[0] += _by_text(torch.ones(1, len(at), dtype=torch.int64), at, len(self.rows))
            unsteered: Tensor | None = None
            for states in runner.run(batch, predicting):
                scores = _token_scores(self.head, states.hidden, targets, unsteered)
                hits = _by_text(scores[:2].long(), at, len(self.rows))
                nats = _by_text(scores[2:].double(), at, len(self.rows))
                if runner.compares_with_unsteered and unsteered is None:
                    unsteered = states.hidden[0]
                    nats[1] = 0  # the divergence of the unsteered model from itself
                results = torch.tensor(states.indices)
                counts[1:, results] += hits
                sums[:, results] += nats
            advance(settings * len(indices))
        return [
            TokenScores(tokens, top1, top10, surprise, divergence)
            for (tokens, top1, top10), (surprise, divergence) in zip(
                counts.unbind(1), sums.unbind(1), strict=True
            )
        ]


def _predictions(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mask ``[B, T]`` of the P predicting tokens, their targets and texts ``[P]``."""
    predicting = torch.zeros_like(batch.real)
    predicting[:, :-1] = batch.real[:, :-1] & batch.real[:, 1:]
    following = batch.ids.roll(-1, 1)
    texts = torch.arange(len(batch.ids), device=batch.ids.device)[:, None].expand_as(batch.ids)
    return predicting, following[predicting], texts[predicting]


def _by_text(values: Tensor, at: Tensor, texts: int) -> Tensor:
    """Sum values ``[..., P]`` over the tokens of each text, to ``[..., N]``."""
    return values.new_zeros(*values.shape[:-1], texts).index_add_(-1, at, values)


@torch.inference_mode()
def _token_scores(
    head: LMHead, hidden: Tensor, targets: Tensor, unsteered: Tensor | None
) -> Tensor:
    """Return top-1 hit, top-10 hit, surprise and KL, ``[4, S, P]`` float32 on the CPU.

    `hidden` is ``[S, P, H]``, `targets` ``[P]``, `unsteered` ``[P, H]``; without it KL is NaN.
    """
    found = torch.full((4, *hidden.shape[:2]), math.nan)
    for chunk in head.chunks(len(targets)):
        target = targets[chunk, None]
        if unsteered is not None:
            reference = head.logits(unsteered[chunk]).float()
            reference -= reference.logsumexp(-1, keepdim=True)
            probabilities = reference.exp()
        for setting, rows in enumerate(hidden[:, chunk]):
            logits = head.logits(rows).float()
            of_target = logits.gather(1, target.to(logits.device))[:, 0]
            # Half the time of counting the likelier tokens, over 49,152 logits on a CPU.
            best = logits.topk(min(TOP, logits.shape[1])).values
            normaliser = logits.logsumexp(-1)
            top1 = of_target >= best[:, 0]
            tied = top1 & (best[:, 0] == best[:, 1])
            if tied.any():
                first = logits[tied].argmax(-1)
                top1[tied] = first == target.to(logits.device)[tied, 0]
            found[0, setting, chunk] = top1.float().cpu()
            found[1, setting, chunk] = (of_target >= best[:, -1]).float().cpu()
            found[2, setting, chunk] = (normaliser - of_target).cpu()
            if unsteered is not None:
                logits -= reference
                divergence = -torch.linalg.vecdot(probabilities, logits) + normaliser
                found[3, setting, chunk] = divergence.clamp(min=0).cpu()
    return found
