"""The tensors that kernels read: all sites of one device, at fixed addresses.

Changes (of coefficients, vectors, rows) are written into them, so that they reach compiled graphs
and captured ones. A slot is a sum of vectors with their coefficients, folded when they are set and
never per token: sixteen vectors cost what one costs. Every site has slots of its own under the same
numbers, so that one `index` serves all sites.

Eager calls get tensors of just the rows in use, or nothing at a site without steering. Graphs must
not see shapes change: they get all slots, and an index line for each sequence of the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.sites import Site

# vectors, index, coefficient and modes, as `faststeer.ops` takes them.
Entries = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NO_ENTRIES: Entries = (None, None, None, None)

ADDED = (1.0, 0.0, 0.0, 0.0, 0.0)  # the mode of a vector that is only added

FEWEST_SLOTS = 8
FEWEST_ROWS = 64


class FoldedSlots(NamedTuple):
    """The slots of n sites: `vectors` ``[n, S, H]`` and `modes` ``[n, S, 5]``.

    `used`: per site, whether it has any terms; `use_modes`: whether any do more than add.
    """

    vectors: Tensor
    modes: Tensor
    used: list[bool]
    use_modes: list[bool]


class DeviceTables:
    """The tables of `sites` on one device.

    `vectors` ``[n, S, H]`` and `modes` ``[n, S, 5]`` float32: the slots of each site. `index`
    ``[R, K]`` int32: the slots of each row, one per group (what acts on the same tokens), -1 for
    none; `rows`: how many of its lines count.
    """

    def __init__(self, sites: Sequence[Site], hidden_size: int, device: torch.device) -> None:
        """Create tables that steer nothing. Inference tensors could not be changed later on."""
        self.sites = list(sites)
        self.position = {site: i for i, site in enumerate(self.sites)}
        self.device = device
        self.read_by_graphs = False
        with torch.inference_mode(False):
            shape = (len(self.sites), FEWEST_SLOTS, hidden_size)
            self.vectors = torch.zeros(shape, dtype=torch.float32, device=device)
            self.modes = torch.tensor(ADDED, device=device).repeat(*shape[:2], 1)
            self.index = torch.full((FEWEST_ROWS, 1), -1, dtype=torch.int32, device=device)
            self.rows = torch.ones((), dtype=torch.int64, device=device)
        self._stay_for_graphs()
        self.slots = 0
        self.uses_modes = False  # once true it stays so, for graphs
        # Read by eager calls: views of the tables, made when those change and not at every step.
        self.views: list[tuple[Tensor, Tensor | None] | None] = [None] * len(self.sites)
        self.set_index(torch.full((1, 1), -1, dtype=torch.int32))

    def make_room(
        self,
        slots: int,
        rows: int,
        columns: int,
        uses_modes: bool = False,
        layout_changed: bool = False,
    ) -> None:
        """Grow where needed, at least twofold, and keep the contents.

        `uses_modes`: some vectors do more than add, and graphs have to read modes.
        `layout_changed`: graphs have to look for other tokens or sequences.

        Raises:
            RuntimeError: inside the capture of a CUDA graph, which would keep reading the old
                addresses.
        """
        count, had_slots, hidden_size = self.vectors.shape
        had_rows, had_columns = self.index.shape
        grows = slots > had_slots or rows > had_rows or columns > had_columns
        if not (grows or layout_changed) and uses_modes <= self.uses_modes:
            return
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "rows or vectors changed during the capture of a CUDA graph and need more room; "
                "change them before the capture"
            )
        if self.read_by_graphs:
            what = "larger tensors" if grows else "other positions or conditions"
            if not (grows or layout_changed):
                what = "modes"
            warnings.warn(
                f"{rows} rows with {slots} different sums in {columns} groups need {what}: "
                "compiled models will recompile, and captured CUDA graphs must be recaptured",
                FaststeerWarning,
                stacklevel=2,
            )
        self.uses_modes = uses_modes or self.uses_modes
        with torch.inference_mode(False), torch.no_grad():
            if slots > had_slots:
                room = max(slots, 2 * had_slots)
                vectors = self.vectors.new_zeros(count, room, hidden_size)
                vectors[:, :had_slots] = self.vectors
                modes = self.modes.new_tensor(ADDED).repeat(count, room, 1)
                modes[:, :had_slots] = self.modes
                self.vectors, self.modes = vectors, modes
                for site, view in enumerate(self.views):
                    if view is not None:
                        self._view(site, view[1] is not None)
            if rows > had_rows or columns > had_columns:
                most = had_rows if rows <= had_rows else max(rows, 2 * had_rows)
                width = had_columns if columns <= had_columns else max(columns, 2 * had_columns)
                index = self.index.new_full((most, width), -1)
                index[:had_rows, :had_columns] = self.index
                self.index = index
        self._stay_for_graphs()

    def _stay_for_graphs(self) -> None:
        """Mark the tables as static: torch.compile copies other inputs of its CUDA graphs at every
        replay.
        """
        for table in (self.vectors, self.modes, self.index, self.rows):
            torch._dynamo.mark_static_address(table)

    def write(self, chosen: Sequence[int], folded: FoldedSlots) -> None:
        """Set all slots of some sites (positions in `sites`)."""
        self.slots = folded.vectors.shape[1]
        sites = torch.tensor(chosen, device=self.device)
        with torch.inference_mode(False), torch.no_grad():
            self.vectors[:, : self.slots].index_copy_(0, sites, folded.vectors)
            self.modes[:, : self.slots].index_copy_(0, sites, folded.modes)
            for site, used, modes in zip(chosen, folded.used, folded.use_modes, strict=True):
                self.views[site] = None
                if used:
                    self._view(site, modes)

    def _view(self, site: int, use_modes: bool) -> None:
        modes = self.modes[site, : self.slots] if use_modes else None
        self.views[site] = self.vectors[site, : self.slots], modes

    def set_index(self, index: Tensor) -> None:
        """Set the slots of each row: `index` ``[R, K]`` int32, on the CPU."""
        rows, columns = index.shape
        with torch.inference_mode(False), torch.no_grad():
            self.index.fill_(-1)
            self.index[:rows, :columns] = index.to(self.device)
            self.rows.fill_(rows)
            narrow = index.to(self.device, copy=True)
            self._narrow = narrow, torch.ones(rows, columns, device=self.device)
            self.reset()

    def begin(self, sequences: int | None) -> None:
        """Start a forward. `sequences`: B, where it becomes a graph."""
        self._started = self._narrow if sequences is None else self.for_graph(sequences)
        self.current = self._started

    def reset(self) -> None:
        """Return to the idle state."""
        self.current = self._started = self._narrow

    def for_graph(self, sequences: int) -> tuple[Tensor, Tensor]:
        """Return index and coefficient ``[B, K]`` of a batch, computed as a part of a graph."""
        self.read_by_graphs = True
        torch._assert_async(
            sequences % self.rows == 0, "the rows of steering do not divide the batch"
        )
        lines = torch.arange(sequences, device=self.device) * self.rows // sequences
        index = self.index.index_select(0, lines)
        return index, torch.ones(index.shape, dtype=torch.float32, device=self.device)

    def apply_mask(self, mask: Tensor) -> None:
        """Restrict the forward's index to the tokens of the mask ``[B, T, K]``."""
        index = self._started[0]  # of the rows, each of which covers as many sequences
        mask = mask.to(self.device).reshape(len(index), -1, *mask.shape[1:])
        if room := index.shape[1] - mask.shape[3]:  # columns that are not used yet
            mask = torch.nn.functional.pad(mask, (0, room))
        kept = torch.where(mask, index[:, None, None], -1).flatten(0, 2)
        self.current = kept, torch.ones(kept.shape, dtype=torch.float32, device=self.device)

    def keep_columns(self, kept: Sequence[bool]) -> None:
        """Let only the columns of `kept` act in the rest of the forward."""
        index, coefficient = self._started
        chosen = torch.tensor(kept, device=self.device)
        self.current = torch.where(chosen, index, -1), coefficient

    def entries(self, site: int) -> Entries:
        """Return the op's arguments at a site in the running forward, which is eager."""
        view = self.views[site]
        return NO_ENTRIES if view is None else (view[0], *self.current, view[1])

    def entries_of_graph(self, site: int) -> Entries:
        """Return the op's arguments at a site in the running forward, which becomes a graph."""
        modes = self.modes[site] if self.uses_modes else None
        return self.vectors[site], *self.current, modes
