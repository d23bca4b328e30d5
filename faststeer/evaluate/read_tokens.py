"""Log-probabilities of given tokens in given texts, summed into those of continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.evaluate.lm_head import LMHead
from faststeer.evaluate.setting_runs import SettingRunner
from faststeer.evaluate.texts import batches_by_length, warn_of_missing_bos
from faststeer.utils.progress import Advance


class TokenRead(NamedTuple):
    """A token of a continuation, predicted at a column of a text (from the text's first token)."""

    text: int
    column: int
    token: int
    continuation: int


@dataclass(frozen=True)
class BatchReads:
    """What is read of a batch: `chosen` ``[B, T]`` bool marks P tokens, which predict R others.

    `columns`, `tokens` and `continuations` are ``[R]``: the place of each read among the P tokens,
    the token that is predicted there, and the continuation that it belongs to.
    """

    chosen: Tensor
    columns: Tensor
    tokens: Tensor
    continuations: Tensor

    def sums(self, head: LMHead, hidden: Tensor, continuations: int) -> Tensor:
        """Return the log-probability of every continuation, as far as this batch has it.

        Settings share products with the output embedding: each reads it from memory once.

        Args:
            head: gives logits; gradients pass through.
            hidden: of the P tokens under S settings, ``[S, P, H]``.
            continuations: how many there are.

        Returns:
            ``[S, continuations]`` float64 nats, on the device of `hidden`.
        """
        settings, tokens = hidden.shape[:2]
        device = hidden.device
        places = self.columns.to(device) + tokens * torch.arange(settings, device=device)[:, None]
        owners = self.continuations.to(device).expand_as(places)
        rows = torch.arange(settings, device=device)[:, None].expand_as(places)
        predicted = self.tokens.to(device).expand_as(places)
        found = hidden.new_zeros(settings, continuations, dtype=torch.float64)
        flat = hidden.flatten(0, 1)
        for chunk in head.chunks(len(flat)):
            here = (places >= chunk.start) & (places < chunk.stop)
            logprobs = head.logits(flat[chunk]).double().log_softmax(-1)
            read = logprobs[places[here] - chunk.start, predicted[here]]
            found = found.index_put((rows[here], owners[here]), read, accumulate=True)
        return found


class ReadTokens:
    """Texts, as `rows` of token ids, with what is read of each, and the number of continuations."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        rows: Sequence[list[int]],
        reads: Sequence[Sequence[TokenRead]],
        continuations: int,
    ) -> None:
        """Take the texts, and what is read of each of them.

        Raises:
            ValueError: a model whose logits are not those of a plain output embedding.
        """
        self.rows = rows
        self.reads = reads
        self.continuations = continuations
        self.tokenizer = tokenizer
        self.head = LMHead(model)
        warn_of_missing_bos(model, tokenizer, rows, 5)

    def sums(
        self, runner: SettingRunner, batch_size: int, advance: Advance = lambda steps: None
    ) -> Tensor:
        """Return the log-probability of each continuation under each setting, in nats.

        Returns:
            ``[S, continuations]`` float64 on the CPU, the unsteered ones last if the runner has
            them.
        """
        logs = torch.zeros(runner.num_results, self.continuations, dtype=torch.float64)
        settings = runner.num_results - runner.compares_with_unsteered
        for texts, batch in batches_by_length(self.rows, self.tokenizer, batch_size, runner.calls):
            reads = self.reads_of(batch, texts)
            for states in runner.run(batch, reads.chosen):
                with torch.inference_mode():
                    found = reads.sums(self.head, states.hidden, self.continuations)
                    logs[torch.tensor(states.indices)] += found.cpu()
            advance(settings * len(texts))
        return logs

    def reads_of(self, batch: Batch, texts: Sequence[int]) -> BatchReads:
        """Return what is read of a batch of the texts of these numbers."""
        reads = [read for text in texts for read in self.reads[text]]
        first = batch.real.int().argmax(1)  # padding may be on either side
        lines = {text: line for line, text in enumerate(texts)}
        line = torch.tensor([lines[read.text] for read in reads], device=first.device)
        column = first[line] + torch.tensor([read.column for read in reads], device=first.device)
        chosen = torch.zeros_like(batch.real)
        chosen[line, column] = True
        order = chosen.flatten().cumsum(0).view(chosen.shape) - 1
        return BatchReads(
            chosen,
            order[line, column],
            torch.tensor([read.token for read in reads]),
            torch.tensor([read.continuation for read in reads]),
        )
