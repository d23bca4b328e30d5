"""The tables of every site, and what the forward that has begun looks up in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faststeer.steering.condition_gates import ConditionGates
from faststeer.steering.conditions import Condition
from faststeer.steering.device_tables import DeviceTables
from faststeer.steering.intervention import Intervention
from faststeer.steering.learned import Learned
from faststeer.steering.positions import Scope
from faststeer.steering.site_table import SiteTable
from faststeer.steering.slots import EntryGroup, Setting, assign_slots, fold_coefficients
from faststeer.steering.token_positions import TokenPositions
from faststeer.vectors.sites import Site


class Tables(Mapping[Site, SiteTable]):
    """All tables of a model, by site."""

    def __init__(self, hidden_size: int, devices: Mapping[Site, torch.device]) -> None:
        """Nothing is steered. `devices`: where each site's layer is."""
        self.hidden_size = hidden_size
        self.devices = dict(devices)
        self.learned: dict[str, Learned] = {}
        self.in_hand = False  # somebody has the handle
        self.off = False  # learned vectors do not act; the others are not written then
        self.capturing = False  # a CUDA graph is being captured
        self._tables = {site: SiteTable(self, site) for site in self.devices}
        # The scope of each column, that of all tokens first. Kept, and not made from the vectors
        # when asked: graphs look at it, and must not depend on their names.
        self.columns: list[Scope | None] = [None]
        self._meanings: list[tuple[EntryGroup, list[str]]] = []  # of the slots
        self._needs_tokens = False  # some slot is for some tokens or some sequences only
        self.may_need_tokens = False  # some column is, and may get slots
        self.gates = ConditionGates(self.device)
        # What looks at the stream for each condition, on the device of its site.
        self._reading: dict[tuple[Condition, torch.device], Callable[[Tensor], None]] = {}
        self.input_shape = 0, 0  # [B, T] of the forward that has begun
        self._tokens: TokenPositions | None = None  # of the forward that has begun
        self._mask: Tensor | None = None
        self._make_banks()
        self.write({}, [{}])

    def __getitem__(self, site: Site) -> SiteTable:
        """The table of a site."""
        return self._tables[site]

    def __iter__(self) -> Iterator[Site]:
        """The sites."""
        return iter(self._tables)

    def __len__(self) -> int:
        """How many sites there are."""
        return len(self._tables)

    @property
    def device(self) -> torch.device:
        """Where a forward begins."""
        return self.devices[Site(0, "resid_pre")]

    def begin(self, sequences: int, tokens: int, device: torch.device) -> None:
        """Prepare for a forward over that many sequences of that many tokens.

        Raises:
            ValueError: rows that do not divide the sequences. A graph's are checked on the device.
        """
        if not torch.compiler.is_compiling():
            on_gpu = device.type == "cuda"
            self.capturing = on_gpu and torch.cuda.is_current_stream_capturing()
            self._sequences = sequences
            self._require_rows()
            self.gates.move(device)
        self.input_shape = sequences, tokens
        self._tokens = self._mask = None  # a forward that failed did not end
        if any(self.gates.conditions):
            (self.gates.require_room if self.in_graph else self.gates.make_room)(sequences)
        for bank in self._banks:
            bank.begin(sequences if self.in_graph else None)

    def go_on(self) -> None:
        """What was written in the middle of a forward counts for the rest of it; where that depends
        on tokens that the forward did not ask about, from the next one on.

        Raises:
            ValueError: as `begin`.
        """
        self._require_rows()
        if self._tokens is not None:
            self.keep_to(self._tokens)
        elif self._needs_tokens:
            conditions = self.gates.conditions
            free = [s is None and c is None for s, c in zip(self.columns, conditions, strict=True)]
            for bank in self._banks:
                bank.keep_columns(free)

    def _require_rows(self) -> None:
        if self._sequences % self._rows:
            raise ValueError(
                f"there are {self._rows} rows of steering for a batch of {self._sequences} "
                "sequences; give one row a sequence, or one for each of several equal groups"
            )

    @property
    def in_graph(self) -> bool:
        """Whether the forward that has begun is becoming a graph: compiled, or captured."""
        return torch.compiler.is_compiling() or self.capturing

    @property
    def needs_tokens(self) -> bool:
        """Whether the forward that has begun depends on positions; a graph's may, later on."""
        return self.may_need_tokens if self.in_graph else self._needs_tokens

    @property
    def is_read(self) -> bool:
        """Whether any site has readers."""
        return any(table.readers for table in self._tables.values())

    def keep_to(self, tokens: TokenPositions) -> None:
        """In the forward that has begun, each column acts on the tokens of its scope alone, and on
        the sequences that its condition lets through.
        """
        masks = [
            torch.ones_like(tokens.positions, dtype=torch.bool)
            if scope is None
            else scope.mask(tokens)
            for scope in self.columns
        ]
        self._tokens, self._mask = tokens, torch.stack(masks, 2)  # [B, T, K]
        self._keep_to_mask()

    def end(self) -> None:
        """The forward is over; what it looked up is let go.

        Not where a backward pass may follow: checkpointed layers run again in it.
        """
        if torch.is_grad_enabled() and not self.in_graph:
            return
        self._tokens = self._mask = None
        for bank in self._banks:
            bank.rest()

    def reserve(self, settings: int, rows: int) -> None:
        """Make room now for what will come, so that no graph meets a change of addresses."""
        columns = len(self.columns)  # a setting may have a slot in each of them
        for bank in self._banks:
            bank.make_room(settings * columns, rows, columns)
        self.gates.make_room(rows)

    def forget_graphs(self) -> None:
        """No graph will be asked for again: what changes need not be announced."""
        self.gates.read_by_graphs = False
        for bank in self._banks:
            bank.read_by_graphs = False

    def move(self, site: Site, device: torch.device) -> None:
        """The site's layer is on another device now."""
        self.devices[site] = device
        self._make_banks()
        self.write(*self._written)
        self._keep_to_mask()  # a forward may have found that out on its way

    def settle(self, devices: Sequence[torch.device]) -> None:
        """Layer i is on ``devices[i]`` now; between forwards."""
        now = {site: devices[site.layer] for site in self}
        if now != self.devices:
            self.devices = now
            self.gates.move(self.device)
            self._make_banks()
            self.write(*self._written)

    def _make_banks(self) -> None:
        by_device: dict[torch.device, list[Site]] = {}
        for site, device in self.devices.items():
            by_device.setdefault(device, []).append(site)
        self._banks = [
            DeviceTables(sites, self.hidden_size, device) for device, sites in by_device.items()
        ]
        for bank in self._banks:
            for site in bank.sites:
                self._tables[site].settle(bank)

    def write(
        self,
        steered: Mapping[str, Intervention],
        settings: Sequence[Setting],
        sites: set[Site] | None = None,
    ) -> None:
        """Sum the vectors of some sites anew, or of all, and write who gets them.

        `settings`: what each row gets. A change for which there is no room, and none to be had,
        raises before anything is written.
        """
        columns, slots, ids = assign_slots(steered, settings)
        parts = [part for _, part in slots] or [{}]
        more = any(one.does_more_than_add for one in steered.values())
        scopes, conditions = [c.scope for c in columns], [c.when for c in columns]
        # What graphs make of positions and conditions, column by column, is a part of them.
        anew = (scopes, conditions) != (self.columns, self.gates.conditions) and (
            self.may_need_tokens or any(scopes) or any(conditions)
        )
        for bank in self._banks:
            bank.make_room(len(parts), len(ids), len(columns), more, anew)
        self._written = steered, settings
        self._rows = len(settings)
        self.columns = scopes
        self.gates.become(conditions)
        self._read_conditions()
        meanings = [(column, list(part)) for column, part in slots]
        everything = sites is None or meanings != self._meanings
        self._meanings = meanings
        at_work = [column for column, _ in slots]
        self._needs_tokens = any(c.scope is not None or c.when is not None for c in at_work)
        self.may_need_tokens = any(c.scope is not None or c.when is not None for c in columns)
        for bank in self._banks:
            chosen = [
                at for at, site in enumerate(bank.sites) if everything or site in (sites or ())
            ]
            if chosen:
                places = [bank.sites[at] for at in chosen]
                bank.write(
                    chosen, fold_coefficients(steered, parts, places, self.hidden_size, bank.device)
                )
            bank.deal(ids)

    def passed(self, condition: Condition | None) -> Tensor | None:
        """What was decided last for a condition, ``[B]`` bool."""
        return None if condition is None else self.gates.passed(condition)

    def _read_conditions(self) -> None:
        """Let each condition look at the stream where it is decided."""
        wanted = {(c, self.devices[c.site]): None for c in self.gates.conditions if c is not None}
        if self._reading.keys() == wanted.keys():
            return
        for (condition, _), reader in self._reading.items():
            self[condition.site].readers.remove(reader)
        self._reading = {
            (condition, device): partial(self._decide, condition, condition.direction_on(device))
            for condition, device in wanted
        }
        for (condition, _), reader in self._reading.items():
            self[condition.site].readers.append(reader)

    def _decide(self, condition: Condition, direction: Tensor, hidden: Tensor) -> None:
        """The forward is at the condition's site; what it lets through counts from here on."""
        if self._tokens is None or self._mask is None:
            return  # nothing that is at work depends on it
        self.gates.decide(condition, direction, hidden, self._tokens, self.in_graph)
        self._keep_to_mask()

    def _keep_to_mask(self) -> None:
        if self._mask is None:
            return
        passed = self.gates.of(self._mask.shape[0], self.in_graph)
        mask = self._mask & passed[:, None].to(self._mask.device)
        for bank in self._banks:
            bank.keep_to(mask)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        """Raises TypeError where the copy would be steered by vectors that no handle reaches."""
        if self.in_hand:
            raise TypeError(
                "a patched model cannot be copied, nor can its handle: unpatch() it, copy, and "
                "patch() both"
            )
        copied = Tables.__new__(Tables)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raises TypeError: a pickle would hold classes and tables of faststeer."""
        raise TypeError(
            "a patched model cannot be pickled, nor saved whole by torch.save: use "
            "save_pretrained or state_dict, which are the stock model's, or unpatch() it first "
            "(faststeer.uninstall() where install() patched it)"
        )
