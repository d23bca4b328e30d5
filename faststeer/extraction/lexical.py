"""How well the embeddings of the tokens that are read separate the sides, before any layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from faststeer.extraction.auc import auc
from faststeer.extraction.examples import NEGATIVE, POSITIVE, Example
from faststeer.extraction.text_reader import TextReader
from faststeer.models.text_calls import evaluating

MOST_TEXTS = 200  # of each side, the first ones: an AUC to about 0.03
FEWEST_TEXTS = 10  # of each side: with fewer, chance exceeds the bound in more than 1 of 1,000
LEXICAL_AUC = 0.9


class Lexical:
    """Mean embeddings of the read tokens of each side's first texts, ``[H]`` each."""

    def __init__(self, reader: TextReader) -> None:
        """Start without texts; a decoder without token embeddings gets none."""
        self.reader = reader
        self.sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.unread = [0, 0]  # texts of each side, where there are no embeddings
        self.paired = False
        try:
            decoder: Any = reader.decoder
            self.embeddings: Any = decoder.get_input_embeddings()
        except (AttributeError, NotImplementedError):  # transformers' way to say that it has none
            self.embeddings = None

    def add(self, example: Example) -> None:
        """Embed the read tokens of an encoded example's texts."""
        if self.embeddings is None:
            for side in example.sides:
                self.unread[side] += 1
            return
        if len(self.sides[example.sides[-1]]) >= MOST_TEXTS:
            return
        self.paired = len(example.ids) == 2
        calls = self.reader.calls
        for side, row in zip(example.sides, example.rows(), strict=True):
            batch = calls.batch([row.ids], None)
            ids = batch.ids[self.reader.read_token.chosen(batch, [row])]
            with evaluating(self.embeddings):
                mean = self.embeddings(ids).float().mean(0)
            self.sides[side].append(mean.cpu())

    def _not_measured(self) -> str | None:
        """Report that a decoder without token embeddings was not checked, where it had texts."""
        if min(self.unread) < FEWEST_TEXTS:
            return None
        return (
            "not checked is whether the embeddings of the tokens read separate the sides: a "
            f"{type(self.reader.decoder).__name__} has no token embeddings"
        )

    def message(self) -> str | None:
        """Report an AUC above the bound, or that the decoder allows none."""
        if self.embeddings is None:
            return self._not_measured()
        counts = list(map(len, self.sides))
        if min(counts) < FEWEST_TEXTS:
            return None
        positive, negative = (torch.stack(rows) for rows in self.sides)
        found = held_out_auc(positive, negative, self.paired)
        if found <= LEXICAL_AUC:
            return None
        return (
            f"the embeddings of the tokens read separate the sides with an AUC of {found:.2f}, "
            f"each text held out ({counts[POSITIVE]} positives, {counts[NEGATIVE]} negatives): the "
            "difference is lexical, and the vector may hold words rather than their meaning"
        )


def held_out_auc(positive: Tensor, negative: Tensor, paired: bool) -> float:
    """Return the AUC of projections on the difference of means, each text held out of its own.

    In its own difference any text is on the right side: with fewer texts than dimensions the AUC
    of random ones is near 1.

    Args:
        positive: ``[P, H]``.
        negative: ``[N, H]``.
        paired: whether row i of both is a pair, which is held out together.
    """
    centre = (positive.mean(0) + negative.mean(0)) / 2
    positive, negative = (positive - centre).double(), (negative - centre).double()
    scores = []
    for sign, own, other in ((1, positive, negative), (-1, negative, positive)):
        others = _means_without_each(other) if paired else other.mean(0)
        scores.append(sign * (own * (_means_without_each(own) - others)).sum(1))
    return auc(scores[0], scores[1])


def _means_without_each(rows: Tensor) -> Tensor:
    """Return the mean of all other rows for each row of ``[N, H]``."""
    return (rows.sum(0) - rows) / (len(rows) - 1)
