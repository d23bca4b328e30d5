"""The direction of a linear classifier."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from faststeer.extraction.methods.statistic import Statistic, gathered


class LogisticProbe(Statistic):
    """The normal of a logistic regression that tells positive from negative, of norm 1.

    scikit-learn's, with its default penalty, on activations about their mean and divided by one
    number a layer, their root mean square about it, so that the penalty means the same in all
    layers (probe weight directions: Li et al. 2023, arXiv 2306.03341, sections 3.1 and 5.3). All
    activations are kept, float32 on the CPU: memory grows with the number of texts.
    """

    fewest: ClassVar[int] = 2

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        if find_spec("sklearn") is None:  # told before anything is computed
            raise ValueError(
                "method 'logistic_probe' needs scikit-learn: pip install 'faststeer[probes]'"
            )
        self.device = device
        self.rows = [torch.empty(0, hidden_size)]
        self.sides = [torch.empty(0, dtype=torch.int32)]

    def update(self, rows: Tensor, sides: Tensor) -> None:
        """See `Statistic`."""
        self.rows.append(rows.float().cpu())
        self.sides.append(sides.cpu())

    def all_reduce(self, process_group: dist.ProcessGroup) -> None:
        """See `Statistic`."""
        for kept in (self.rows, self.sides):
            kept[:] = [gathered(torch.cat(kept).to(self.device), process_group).cpu()]

    def direction(self) -> Tensor:
        """See `Statistic`."""
        from sklearn.linear_model import LogisticRegression

        rows = torch.cat(self.rows).double()
        rows = rows - rows.mean(0)
        scale = rows.square().mean().sqrt()
        if not scale > 0:
            raise ValueError("the activations of all texts are equal: there is nothing to tell")
        classifier = LogisticRegression(max_iter=1000)
        classifier.fit((rows / scale).numpy(), (torch.cat(self.sides) == 0).numpy())
        normal: Tensor = torch.from_numpy(classifier.coef_[0])
        return torch.nn.functional.normalize(normal, dim=0)
