"""Streaming count, mean and variance of activations, by feature and group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from faststeer import ops
from faststeer.utils.files import write_whole

FORMAT = "faststeer moments"
FORMAT_VERSION = "1"


class Moments:
    """Count, mean and variance of rows ``[H]`` in G groups, in one pass on the device.

    Memory does not depend on the number of rows. The sums of each batch are merged in float64
    (Chan, Golub and LeVeque 1983, equations 1.5), so the order of the batches, and the process that
    computes them, changes nothing beyond float64 rounding.

    `count` ``[G]`` is int64; `mean` ``[G, H]`` is float64, 0 for a group without rows.
    """

    def __init__(
        self, hidden_size: int, groups: int = 1, device: torch.device | str | None = None
    ) -> None:
        """Start without rows.

        Args:
            hidden_size: H.
            groups: G.
            device: of the activations; the CPU by default.

        Raises:
            ValueError: a size or number of groups below 1.
        """
        if hidden_size < 1 or groups < 1:
            raise ValueError(f"hidden_size {hidden_size} and groups {groups}: expected at least 1")
        self.hidden_size = hidden_size
        self.groups = groups
        with torch.inference_mode(False):
            zeros = torch.zeros(groups, hidden_size, dtype=torch.float64, device=device)
            self.mean = zeros
            self._m2 = zeros.clone()
            self.count = torch.zeros(groups, dtype=torch.int64, device=device)

    @property
    def device(self) -> torch.device:
        """The device of the statistics, on which activations are expected."""
        return self.count.device

    @property
    def variance(self) -> Tensor:
        """The mean squared distance from the mean, ``[G, H]`` float64; NaN without rows."""
        return self._m2 / self.count.double()[:, None]

    def update(self, x: Tensor, group: Tensor | None = None) -> None:
        """Add the rows of `x` ``[..., H]``, float32, bfloat16, float16 or float64.

        Args:
            x: activations, on `device`.
            group: the group of each row, int32 ``[...]``; -1 excludes a row. It may be left out
                where G is 1.

        Raises:
            ValueError: as `faststeer.ops.accumulate_moments`.
        """
        ops.accumulate_moments(x, group, self.count, self.mean, self._m2)

    def merge(self, other: Moments) -> None:
        """Add all rows of `other`, which is not changed.

        Raises:
            ValueError: `other` has another number of groups or features.
        """
        self._require_same_layout(other.count, other.mean, other._m2, "the other's")
        count, mean, m2 = (t.to(self.device) for t in (other.count, other.mean, other._m2))
        total = self.count + count
        share = count.double() / total.clamp(min=1)
        distance = mean - self.mean
        with torch.inference_mode(False), torch.no_grad():
            self._m2 += m2 + distance.square() * (self.count * share)[:, None]
            self.mean += distance * share[:, None]
            self.count.copy_(total)

    def all_reduce(self, process_group: dist.ProcessGroup | None = None) -> None:
        """Merge the statistics of all processes in the order of their ranks, on every process.

        All processes get bitwise equal results. `process_group`: torch's default group if None.
        """
        processes = dist.get_world_size(process_group)
        gathered = []
        for statistic in (self.count, self.mean, self._m2):
            parts = [torch.empty_like(statistic) for _ in range(processes)]
            dist.all_gather(parts, statistic, group=process_group)
            gathered.append(parts)
        merged = Moments(self.hidden_size, self.groups, self.device)
        for count, mean, m2 in zip(*gathered, strict=True):
            merged.merge(Moments._from_state(count, mean, m2))
        self.count, self.mean, self._m2 = merged.count, merged.mean, merged._m2

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics themselves, not copies.

        `count` ``[G]`` is int64; `mean` and `m2` (variance times count) ``[G, H]`` are float64.
        """
        return {"count": self.count, "mean": self.mean, "m2": self._m2}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the statistics by a copy of `state`, as `state_dict` returned it.

        Raises:
            ValueError: a tensor is missing, unknown or invalid, or has another shape or dtype.
        """
        if set(state) != {"count", "mean", "m2"}:
            raise ValueError(f"got {sorted(state)}; expected the tensors count, mean and m2")
        count, mean, m2 = (state[name] for name in ("count", "mean", "m2"))
        self._require_same_layout(count, mean, m2, "the given")
        if (count < 0).any() or not mean.isfinite().all() or not (m2 >= 0).all():
            raise ValueError(
                "the state has a count or a variance below 0, or a mean that is not finite"
            )
        with torch.inference_mode(False), torch.no_grad():
            for statistic, given in ((self.count, count), (self.mean, mean), (self._m2, m2)):
                statistic.copy_(given)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file atomically, for `load` or for another process."""
        header = {"format": FORMAT, "format_version": FORMAT_VERSION}
        state = {name: tensor.cpu() for name, tensor in self.state_dict().items()}
        write_whole(path, save(state, header))

    @classmethod
    def load(cls, path: str | PathLike[str], device: torch.device | str | None = None) -> Moments:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is truncated or holds something else; the message names it.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
        try:
            with safe_open(os.fspath(file), framework="pt") as opened:
                header = opened.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError(f"its header's 'format' is {header.get('format')!r}")
                if header.get("format_version") != FORMAT_VERSION:
                    raise ValueError(f"format version {header.get('format_version')!r} is unknown")
                names = opened.keys()
                state = {name: opened.get_tensor(name) for name in names}
            mean = state.get("mean", torch.empty(0))
            if mean.dim() != 2:
                raise ValueError(f"its mean has shape {tuple(mean.shape)}; expected [G, H]")
            moments = cls(mean.shape[1], mean.shape[0], device)
            moments.load_state_dict(state)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{file}: not a faststeer.Moments file ({error})") from error
        return moments

    @classmethod
    def _from_state(cls, count: Tensor, mean: Tensor, m2: Tensor) -> Moments:
        moments = cls.__new__(cls)
        moments.groups, moments.hidden_size = mean.shape
        moments.count, moments.mean, moments._m2 = count, mean, m2
        return moments

    def _require_same_layout(self, count: Tensor, mean: Tensor, m2: Tensor, whose: str) -> None:
        for name, expected, given in (
            ("count", self.count, count),
            ("mean", self.mean, mean),
            ("m2", self._m2, m2),
        ):
            if given.shape != expected.shape or given.dtype != expected.dtype:
                raise ValueError(
                    f"{whose} {name} is {given.dtype} {list(given.shape)}; expected "
                    f"{expected.dtype} {list(expected.shape)}, for {self.groups} groups of "
                    f"{self.hidden_size} features"
                )

    def __repr__(self) -> str:
        """Return the hidden size and the number of rows by group."""
        rows = ", ".join(map(str, self.count.tolist()))
        return f"Moments(hidden size {self.hidden_size}, rows by group: {rows})"
