"""Padded batches of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids ``[B, T]`` int64 and a mask ``[B, T]`` int64, which is 0 for padding."""

    ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """Return each token's position in its own text, ``[B, T]``; 0 for padding."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def real(self) -> Tensor:
        """Return a mask ``[B, T]`` bool of the tokens that are not padding."""
        return self.mask.bool()


def left_padded(rows: Sequence[Sequence[int]], pad: int | None, device: torch.device) -> Batch:
    """Make one batch of texts of several lengths, padded on the left so that they end together.

    Args:
        rows: the token ids of each text.
        pad: the padding token; None, where a tokenizer has none, takes token 0: it is masked.
        device: where the batch is made.
    """
    return padded(rows, pad, device, "left")


def padded(
    rows: Sequence[Sequence[int]], pad: int | None, device: torch.device, side: str
) -> Batch:
    """Make one batch as `left_padded`, with the padding on the "left" or "right" `side`."""
    filler = 0 if pad is None else pad
    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    before, after = (gaps, [0] * len(rows)) if side == "left" else ([0] * len(rows), gaps)
    lines = list(zip(before, rows, after, strict=True))
    ids = torch.tensor([[filler] * a + list(row) + [filler] * b for a, row, b in lines])
    mask = torch.tensor([[0] * a + [1] * len(row) + [0] * b for a, row, b in lines])
    return Batch(ids.to(device), mask.to(device))
