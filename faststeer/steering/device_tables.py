"""The tensors that kernels read: all sites of one device, at addresses that stay.

What changes (coefficients, vectors, which row gets which) is written into them, so that it reaches
compiled graphs and captured ones. A slot is a sum of vectors with their coefficients, made when
they are set and never once a token: sixteen vectors cost what one costs. Every site has slots of
its own under the same numbers, so that who gets which is said once for all sites, in `ids`.

Eager calls get tensors of just the rows there are, or nothing at a site without steering. Graphs
must not see shapes change: they get all slots, and an id for each sequence of the batch.
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

ADDED = (1.0, 0.0, 0.0)  # the mode of a vector that is added and nothing else

FEWEST_SLOTS = 8
FEWEST_ROWS = 64


class FoldedSlots(NamedTuple):
    """The slots of n sites: `vectors` ``[n, S, H]``, `modes` ``[n, S, 3]``; and of each site
    whether it has any terms, and whether any that do more than add.
    """

    vectors: Tensor
    modes: Tensor
    used: list[bool]
    more: list[bool]


class DeviceTables:
    """The tables of `sites` on one device.

    `vectors` ``[n, S, H]`` and `modes` ``[n, S, 3]`` float32: the slots of each site. `ids`
    ``[R, K]`` int32: the slots of each row, one a column (a column is what acts on the same
    tokens), -1 for none; `rows` says how many of its lines count.
    """

    def __init__(self, sites: Sequence[Site], hidden_size: int, device: torch.device) -> None:
        """Nothing is steered. Inference tensors could not be changed outside of inference."""
        self.sites = list(sites)
        self.position = {site: i for i, site in enumerate(self.sites)}
        self.device = device
        self.read_by_graphs = False
        with torch.inference_mode(False):
            shape = (len(self.sites), FEWEST_SLOTS, hidden_size)
            self.vectors = torch.zeros(shape, dtype=torch.float32, device=device)
            self.modes = torch.tensor(ADDED, device=device).repeat(*shape[:2], 1)
            self.ids = torch.full((FEWEST_ROWS, 1), -1, dtype=torch.int32, device=device)
            self.rows = torch.ones((), dtype=torch.int64, device=device)
        self._stay_for_graphs()
        self.slots = 0
        self.more_than_additions = False  # once true it stays so, for graphs
        # What eager calls read: views of the tables, made when those change and not at every step.
        self.views: list[tuple[Tensor, Tensor | None] | None] = [None] * len(self.sites)
        self.deal(torch.full((1, 1), -1, dtype=torch.int32))

    def make_room(
        self, slots: int, rows: int, columns: int, more: bool = False, anew: bool = False
    ) -> None:
        """Grow where needed, at least twofold; what is there stays.

        `more`: some vectors do more than add, and graphs have to read modes. `anew`: graphs have
        to look for other tokens or sequences.

        Raises:
            RuntimeError: inside the capture of a CUDA graph, which would go on reading the old
                addresses.
        """
        count, had_slots, hidden_size = self.vectors.shape
        had_rows, had_columns = self.ids.shape
        grows = slots > had_slots or rows > had_rows or columns > had_columns
        if not (grows or anew) and more <= self.more_than_additions:
            return
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a change of rows or vectors that needs more room came inside a graph's capture; "
                "make it before"
            )
        if self.read_by_graphs:
            what = "larger tensors" if grows else "other positions or conditions"
            if not (grows or anew):
                what = "modes"
            warnings.warn(
                f"{rows} rows with {slots} different sums in {columns} columns need {what}: "
                "compiled models compile anew, and captured CUDA graphs have to be captured again",
                FaststeerWarning,
                stacklevel=2,
            )
        self.more_than_additions = more or self.more_than_additions
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
                ids = self.ids.new_full((most, width), -1)
                ids[:had_rows, :had_columns] = self.ids
                self.ids = ids
        self._stay_for_graphs()

    def _stay_for_graphs(self) -> None:
        """What torch.compile captures as a CUDA graph reads these where they are: of inputs that
        it does not know to stay it makes a copy at every replay.
        """
        for table in (self.vectors, self.modes, self.ids, self.rows):
            torch._dynamo.mark_static_address(table)

    def write(self, chosen: Sequence[int], sums: FoldedSlots) -> None:
        """Set all slots of some sites (positions in `sites`), on the bank's device."""
        self.slots = sums.vectors.shape[1]
        sites = torch.tensor(chosen, device=self.device)
        with torch.inference_mode(False), torch.no_grad():
            self.vectors[:, : self.slots].index_copy_(0, sites, sums.vectors)
            self.modes[:, : self.slots].index_copy_(0, sites, sums.modes)
            for site, used, more in zip(chosen, sums.used, sums.more, strict=True):
                self.views[site] = None
                if used:
                    self._view(site, more)

    def _view(self, site: int, more: bool) -> None:
        modes = self.modes[site, : self.slots] if more else None
        self.views[site] = self.vectors[site, : self.slots], modes

    def deal(self, ids: Tensor) -> None:
        """Set who gets which slots: ids ``[R, K]`` int32, on the CPU."""
        rows, columns = ids.shape
        with torch.inference_mode(False), torch.no_grad():
            self.ids.fill_(-1)
            self.ids[:rows, :columns] = ids.to(self.device)
            self.rows.fill_(rows)
            narrow = ids.to(self.device, copy=True)
            self._narrow = narrow, torch.ones(rows, columns, device=self.device)
            self.rest()

    def begin(self, sequences: int | None) -> None:
        """A forward begins, over so many sequences where it becomes a graph."""
        self._begun = self._narrow if sequences is None else self.look_up(sequences)
        self.now = self._begun

    def rest(self) -> None:
        """No forward is going on."""
        self.now = self._begun = self._narrow

    def look_up(self, sequences: int) -> tuple[Tensor, Tensor]:
        """Ids and coefficients ``[B, K]`` of a batch, found on the device: a part of a graph."""
        self.read_by_graphs = True
        torch._assert_async(
            sequences % self.rows == 0, "the rows of steering do not divide the batch"
        )
        lines = torch.arange(sequences, device=self.device) * self.rows // sequences
        ids = self.ids.index_select(0, lines)
        return ids, torch.ones(ids.shape, dtype=torch.float32, device=self.device)

    def keep_to(self, mask: Tensor) -> None:
        """Only tokens of the mask ``[B, T, K]`` get what the forward began with."""
        ids = self._begun[0]  # of the rows, each of which covers as many sequences
        mask = mask.to(self.device).reshape(len(ids), -1, *mask.shape[1:])
        if room := ids.shape[1] - mask.shape[3]:  # columns that nothing uses yet
            mask = torch.nn.functional.pad(mask, (0, room))
        kept = torch.where(mask, ids[:, None, None], -1).flatten(0, 2)
        self.now = kept, torch.ones(kept.shape, dtype=torch.float32, device=self.device)

    def keep_columns(self, kept: Sequence[bool]) -> None:
        """Only the columns of which that is said act in what is left of a forward."""
        ids, ones = self._begun
        chosen = torch.tensor(kept, device=self.device)
        self.now = torch.where(chosen, ids, -1), ones

    def entries(self, site: int, graph: bool) -> Entries:
        """What the op takes at a site in the forward that is going on."""
        if graph:
            modes = self.modes[site] if self.more_than_additions else None
            return self.vectors[site], *self.now, modes
        view = self.views[site]
        return NO_ENTRIES if view is None else (view[0], *self.now, view[1])
