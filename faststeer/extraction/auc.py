"""The area under the ROC curve: how well scores separate positive from negative texts."""

from __future__ import annotations

import torch
from torch import Tensor


def auc(positive: Tensor, negative: Tensor) -> float:
    """Return the share of (positive, negative) where the positive is larger; ties count half.

    This is the area under the ROC curve (Hanley and McNeil 1982) and the normalised Mann-Whitney
    statistic: 1 is perfect separation, 0.5 is chance, and below 0.5 the sign is wrong.

    Args:
        positive: scores ``[P]``.
        negative: scores ``[N]``.

    Raises:
        ValueError: no scores on a side, or scores that are NaN.
    """
    if not (positive.numel() and negative.numel()):
        raise ValueError(
            f"got {positive.numel()} positive and {negative.numel()} negative scores; at least one "
            "of each is needed"
        )
    if positive.isnan().any() or negative.isnan().any():
        raise ValueError("a score is NaN; it cannot be ranked")
    ordered = negative.sort().values
    smaller = torch.searchsorted(ordered, positive.contiguous(), right=False)
    not_larger = torch.searchsorted(ordered, positive.contiguous(), right=True)
    wins = (smaller + not_larger).double() / 2
    return float(wins.mean() / len(ordered))
