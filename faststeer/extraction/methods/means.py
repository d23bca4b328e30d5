"""Directions from means: sums are all that is kept."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from faststeer.extraction.methods.statistic import Statistic
from faststeer.extraction.moments import Moments


class MeanDifference(Statistic):
    """``mean(h(positive)) - mean(h(negative))``, not normalised.

    On pairs this is contrastive activation addition (Rimsky et al. 2024, arXiv 2312.06681, section
    3; there with read token -2). On two sets of documents, at their last tokens, it is van der
    Weij, Poesio and Schoots 2024 (arXiv 2403.05767, section 3).
    """

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        self.moments = Moments(hidden_size, 2, device)

    def update(self, rows: Tensor, sides: Tensor) -> None:
        """See `Statistic`."""
        self.moments.update(rows, sides)

    def all_reduce(self, process_group: dist.ProcessGroup) -> None:
        """See `Statistic`."""
        self.moments.all_reduce(process_group)

    def direction(self) -> Tensor:
        """See `Statistic`."""
        return self.moments.mean[0] - self.moments.mean[1]


class MeanCentring(MeanDifference):
    """``mean(h(positive)) - mean(h(negative))``, the negative texts being a broad background.

    Activations lie off the origin in all texts alike; the mean over the background, ideally the
    training data, is what takes that out (Jorgensen et al. 2023, arXiv 2312.03813, section 3).
    """

    takes_pairs: ClassVar[bool] = False


class PermutedMeans(MeanDifference):
    """A baseline without meaning: each mean's coordinates in an order of its own, then subtracted.

    The components are distributed as those of the means (van der Weij et al. 2024, arXiv
    2403.05767), but the norm is another than that of their difference.
    """

    def direction(self) -> Tensor:
        """See `Statistic`."""
        draw = torch.Generator().manual_seed(0)
        means = self.moments.mean.cpu()
        orders = [torch.randperm(means.shape[1], generator=draw) for _ in means]
        return means[0, orders[0]] - means[1, orders[1]]
