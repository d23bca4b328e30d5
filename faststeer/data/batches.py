"""Batches of token ids: padded on the left or random, for checks and timing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids ``[B, T]`` int64 and a mask ``[B, T]`` int64 that is 0 where they are padding."""

    ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """Each token's place in its own text, ``[B, T]``; 0 for padding."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def real(self) -> Tensor:
        """Which tokens are not padding, ``[B, T]`` bool."""
        return self.mask.bool()


def left_padded(rows: Sequence[Sequence[int]], pad: int | None, device: torch.device) -> Batch:
    """Texts of several lengths as one batch on `device`; they end together.

    Padding is masked, so a tokenizer that has no padding token (None) gets token 0.
    """
    return padded(rows, pad, device, "left")


def padded(
    rows: Sequence[Sequence[int]], pad: int | None, device: torch.device, side: str
) -> Batch:
    """As `left_padded`, or with the padding on the "right"; they begin together then."""
    filler = 0 if pad is None else pad
    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    before, after = (gaps, [0] * len(rows)) if side == "left" else ([0] * len(rows), gaps)
    lines = list(zip(before, rows, after, strict=True))
    ids = torch.tensor([[filler] * a + list(row) + [filler] * b for a, row, b in lines])
    mask = torch.tensor([[0] * a + [1] * len(row) + [0] * b for a, row, b in lines])
    return Batch(ids.to(device), mask.to(device))
