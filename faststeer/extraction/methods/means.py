"""Directions from the means of positive and negative activations."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from faststeer.extraction.methods.statistic import Statistic
from faststeer.extraction.moments import Moments


class MeanDifference(Statistic):
    """The difference ``mean(h(positive)) - mean(h(negative))``, not normalised.

    On pairs this is contrastive activation addition (Rimsky et al. 2024, arXiv 2312.06681, section
    3), which reads token -2. On two sets of documents, at their last tokens, it is the method of
    van der Weij, Poesio and Schoots 2024 (arXiv 2403.05767, section 3).
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
    """The difference of means where the negative texts are a broad background.

    Activations of all texts share an offset from the origin; subtracting the mean over the
    background, ideally the training data, removes it (Jorgensen et al. 2023, arXiv 2312.03813,
    section 3).
    """

    takes_pairs: ClassVar[bool] = False


class PermutedMeans(MeanDifference):
    """A random baseline: the difference of the two means, each with permuted coordinates.

    Each mean keeps the distribution of its components (van der Weij et al. 2024, arXiv 2403.05767),
    but the norm is not that of the difference of the means.
    """

    def direction(self) -> Tensor:
        """See `Statistic`."""
        generator = torch.Generator().manual_seed(0)
        means = self.moments.mean.cpu()
        orders = [torch.randperm(means.shape[1], generator=generator) for _ in means]
        return means[0, orders[0]] - means[1, orders[1]]
