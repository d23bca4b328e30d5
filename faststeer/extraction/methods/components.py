"""The first principal component of paired differences."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from faststeer.extraction.methods.statistic import Statistic, gather_rows


class CentredComponent(Statistic):
    """The first principal component of the pairs' centred differences, of norm 1.

    Representation engineering (Zou et al. 2023, arXiv 2310.01405, section 3.1), in the variant that
    repeng calls pca_diff. A component has no sign of its own: as in repeng, it points to where most
    differences do. Centring removes what all differences have in common; `UncentredComponent` keeps
    it.

    Differences are kept in float32 while they take less memory than their scatter matrix ``[H, H]``
    in float64: up to 2 H pairs. Beyond that, the component points to where their mean does.
    """

    takes_sets: ClassVar[bool] = False
    min_examples: ClassVar[int] = 2
    centred: ClassVar[bool] = True

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        self.max_kept = 2 * hidden_size
        self.kept = torch.empty(0, hidden_size, device=device)
        self.pending: list[Tensor] = []  # batches to be appended to `kept`
        self.count = 0  # of the differences in `mean` and `scatter`
        self.mean = torch.zeros(hidden_size, dtype=torch.float64, device=device)
        self.scatter: Tensor | None = None  # about `mean`; None while it is zero

    def update(self, rows: Tensor, sides: Tensor) -> None:
        """See `Statistic`."""
        self.pending.append(rows[0::2].float() - rows[1::2].float())
        if len(self.kept) + sum(map(len, self.pending)) > self.max_kept:
            self._fold_kept()

    def all_reduce(self, process_group: dist.ProcessGroup) -> None:
        """See `Statistic`."""
        self._append_pending()
        kept = gather_rows(self.kept, process_group)
        folded = torch.tensor([self.count], device=kept.device)
        dist.all_reduce(folded, dist.ReduceOp.MAX, group=process_group)
        if int(folded) > 0:
            local = self.count, self.mean, self._scatter_matrix()
            self.count, self.mean, self.scatter = 0, torch.zeros_like(self.mean), None
            for rank in range(dist.get_world_size(process_group)):
                count, mean, scatter = (
                    torch.tensor([local[0]], device=kept.device),
                    local[1].clone(),
                    local[2].clone(),
                )
                for tensor in (count, mean, scatter):
                    dist.broadcast(tensor, group=process_group, group_src=rank)
                self._merge(int(count), mean, scatter)
        self.kept = kept
        if len(kept) > self.max_kept:
            self._fold_kept()

    def direction(self) -> Tensor:
        """See `Statistic`. Raises ValueError for differences that do not vary."""
        self._append_pending()
        if self.scatter is not None:
            self._fold_kept()
            mean, matrix = self.mean, self._scatter_matrix()
            if not self.centred:
                matrix = matrix + self.count * torch.outer(mean, mean)
            found = self._leading_eigenvector(matrix)
        else:
            rows = self.kept.double()
            mean = rows.mean(0)
            if self.centred:
                rows = rows - mean
            if len(rows) < rows.shape[1]:
                found = rows.T @ self._leading_eigenvector(rows @ rows.T)
            else:
                found = self._leading_eigenvector(rows.T @ rows)
        found = torch.nn.functional.normalize(found, dim=0)
        votes = (self.kept.double() @ found).sign().sum()
        flip = votes < 0 if votes != 0 else found @ mean < 0
        return torch.where(flip, -found, found)

    def _leading_eigenvector(self, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        if not values[-1] > 0:
            raise ValueError(
                "the pairs' differences do not vary, so they have no principal component; "
                "method='mean_difference' uses their mean"
            )
        largest: Tensor = vectors[:, -1]
        return largest

    def _append_pending(self) -> None:
        self.kept = torch.cat([self.kept, *self.pending])
        self.pending = []

    def _fold_kept(self) -> None:
        """Move the kept differences into `mean` and `scatter`."""
        self._append_pending()
        rows = self.kept.double()
        self.kept = self.kept[:0].clone()
        if len(rows):
            mean = rows.mean(0)
            self._merge(len(rows), mean, (rows - mean).T @ (rows - mean))

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Merge a count, mean and scatter matrix (Chan, Golub and LeVeque 1983, equations 1.5)."""
        total = self.count + count
        if not count:
            return
        distance = mean - self.mean
        between = torch.outer(distance, distance) * (self.count * count / total)
        self.scatter = self._scatter_matrix() + scatter + between
        self.mean = self.mean + distance * (count / total)
        self.count = total

    def _scatter_matrix(self) -> Tensor:
        if self.scatter is None:
            return self.mean.new_zeros(len(self.mean), len(self.mean))
        return self.scatter


class UncentredComponent(CentredComponent):
    """The first principal component of the pairs' differences without centring, of norm 1.

    repeng's pca_center: each text relative to the midpoint of its pair. Both texts are half a
    difference away from it, so this is the component of the differences about zero.
    """

    centred: ClassVar[bool] = False
