"""The interface of extraction methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor


class Statistic(ABC):
    """A statistic of one layer's activations, updated by batches, that gives a direction."""

    takes_pairs: ClassVar[bool] = True
    takes_sets: ClassVar[bool] = True
    min_examples: ClassVar[int] = 1  # pairs, or texts of each side

    @abstractmethod
    def __init__(self, hidden_size: int, device: torch.device) -> None:
        """Start without rows, which will be on `device`."""

    @abstractmethod
    def update(self, rows: Tensor, sides: Tensor) -> None:
        """Add rows ``[B, H]`` of `sides` ``[B]`` int32, 0 for positive and 1 for negative.

        A pair has two rows, one after the other, positive first.
        """

    @abstractmethod
    def all_reduce(self, process_group: dist.ProcessGroup) -> None:
        """Merge the statistics of all processes in the order of their ranks, on every process."""

    @abstractmethod
    def direction(self) -> Tensor:
        """Return the direction ``[H]`` towards positive. Raises ValueError where there is none."""


def gather_rows(rows: Tensor, process_group: dist.ProcessGroup) -> Tensor:
    """Return the rows ``[n, ...]`` of all processes in the order of their ranks; n may differ."""
    processes = dist.get_world_size(process_group)
    local = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(local) for _ in range(processes)]
    dist.all_gather(counts, local, group=process_group)
    parts = []
    for rank, count in enumerate(counts):
        part = rows
        if dist.get_rank(process_group) != rank:
            part = rows.new_empty(int(count), *rows.shape[1:])
        dist.broadcast(part, group=process_group, group_src=rank)
        parts.append(part)
    return torch.cat(parts)
