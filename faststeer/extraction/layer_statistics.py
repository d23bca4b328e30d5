"""Each layer's statistic, without texts of which nothing but attention sinks was read.

At a single read token a text may have a sink there: on Qwen2.5-Coder-0.5B, one full stop of twelve
pairs has 6 times the norm of its text from layer 5 on, and outweighs the eleven others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
import torch.distributed as dist
from torch import Tensor

from faststeer.extraction.activation_batch import ActivationBatch
from faststeer.extraction.methods import Statistic


class LayerStatistics:
    """The statistics of all layers.

    Where the fewer texts of a layer are read at sinks alone, they are left out there, each with its
    pair. Where half of them are or more, that is what the read token is like, and all are read.
    """

    def __init__(
        self,
        layers: Sequence[int],
        new: Callable[[torch.device], Statistic],
        paired: bool,
        least: int,
    ) -> None:
        """Start without texts.

        Args:
            layers: those that are read.
            new: returns a statistic of one layer, on a device.
            paired: whether two texts are a pair, one after the other.
            least: how many pairs, or texts of each side, a statistic needs.
        """
        self.layers = list(layers)
        self._new = new
        self._paired = paired
        self._least = least
        self._every: dict[int, Statistic] = {}  # of all texts
        self._rest: dict[int, Statistic] = {}  # of those not left out, where some are
        self._sides = torch.zeros(2, dtype=torch.int64)
        self._left_out = torch.zeros(len(self.layers), 2, dtype=torch.int64)  # by side

    def update(self, batch: ActivationBatch) -> None:
        """Add a batch."""
        sides = torch.tensor(batch.sides, dtype=torch.int32)
        self._sides += sides.bincount(minlength=2)
        placed: dict[torch.device, Tensor] = {}
        for number, layer in enumerate(self.layers):  # in whose order sinks are told
            rows = batch.by_layer[layer]
            if rows.device not in placed:
                placed[rows.device] = sides.to(rows.device)
            if layer not in self._every:
                self._every[layer] = self._new(rows.device)
            kept = ~self._outweighing(batch, number)
            if not kept.all():
                self._begin_rest(layer)
                self._left_out[number] += sides[~kept].bincount(minlength=2)
            self._every[layer].update(rows, placed[rows.device])
            if layer in self._rest and kept.any():
                places = kept.nonzero()[:, 0].to(rows.device)
                self._rest[layer].update(rows[places], placed[rows.device][places])

    def all_reduce(self, process_group: dist.ProcessGroup, device: torch.device) -> None:
        """Merge the statistics of all processes, as `Statistic.all_reduce`.

        `device`: of layers of which this process has read nothing.
        """
        counts = torch.cat([self._sides, self._left_out.flatten()]).to(device)
        dist.all_reduce(counts, group=process_group)
        self._sides, left_out = counts[:2].cpu(), counts[2:].cpu()
        self._left_out = left_out.reshape(-1, 2)
        for number, layer in enumerate(self.layers):
            if layer not in self._every:  # fewer batches than processes
                self._every[layer] = self._new(device)
            if self._left_out[number].any():
                self._begin_rest(layer)
                self._rest[layer].all_reduce(process_group)
            self._every[layer].all_reduce(process_group)

    def left_out(self) -> dict[int, int]:
        """Return layer -> pairs, or texts where there are none, that its direction leaves out."""
        counts = self._left_out.sum(1) // (2 if self._paired else 1)
        found = zip(self.layers, counts.tolist(), strict=True)
        return {layer: count for layer, count in found if count and self._leaves_out(layer)}

    def directions(self) -> dict[int, Tensor]:
        """Return layer -> direction ``[H]``. Raises ValueError where there is none."""
        chosen = {
            layer: self._rest[layer] if self._leaves_out(layer) else self._every[layer]
            for layer in self.layers
        }
        return {layer: statistic.direction() for layer, statistic in chosen.items()}

    def _outweighing(self, batch: ActivationBatch, number: int) -> Tensor:
        """Return which texts ``[B]`` count as read at sinks alone, with those of their pairs."""
        sinks = batch.only_sinks[number]
        if self._paired:
            sinks = sinks.view(-1, 2).any(1).repeat_interleave(2)
        return sinks

    def _begin_rest(self, layer: int) -> None:
        if layer not in self._rest:  # so far the same
            self._rest[layer] = deepcopy(self._every[layer])

    def _leaves_out(self, layer: int) -> bool:
        left_out = self._left_out[self.layers.index(layer)]
        rest = self._sides - left_out
        return bool(left_out.any() and (rest >= self._least).all() and (left_out < rest).all())
