"""The direction of a linear classifier."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from faststeer.extraction.methods.statistic import Statistic, gather_rows


class LogisticProbe(Statistic):
    """The normal of a logistic regression of positive against negative texts, of norm 1.

    scikit-learn's regression with its default penalty, on centred activations divided by one number
    per layer, their root mean square, so that the penalty has the same effect in all layers (probe
    weight directions: Li et al. 2023, arXiv 2306.03341, sections 3.1 and 5.3). All activations are
    kept, float32 on the CPU: memory grows with the number of texts.
    """

    min_examples: ClassVar[int] = 2

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        if find_spec("sklearn") is None:  # raise before the model runs
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
            kept[:] = [gather_rows(torch.cat(kept).to(self.device), process_group).cpu()]

    def direction(self) -> Tensor:
        """See `Statistic`."""
        from sklearn.linear_model import LogisticRegression

        rows = torch.cat(self.rows).double()
        rows = rows - rows.mean(0)
        scale = rows.square().mean().sqrt()
        if not scale > 0:
            raise ValueError("the activations of all texts are equal: no direction separates them")
        classifier = LogisticRegression(max_iter=1000)
        classifier.fit((rows / scale).numpy(), (torch.cat(self.sides) == 0).numpy())
        normal: Tensor = torch.from_numpy(classifier.coef_[0])
        return torch.nn.functional.normalize(normal, dim=0)
