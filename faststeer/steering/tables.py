"""The tables of all sites of a model, and what is written into them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from faststeer.steering.conditions import Condition
from faststeer.steering.device_tables import DeviceTables
from faststeer.steering.fold_coefficients import (
    EntryGroup,
    Setting,
    assign_slots,
    fold_coefficients,
)
from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.intervention import Intervention
from faststeer.steering.learned import Learned
from faststeer.steering.site_table import Reader, SiteTable
from faststeer.vectors.sites import Site


class Tables(Mapping[Site, SiteTable]):
    """The tables of a model, by site."""

    def __init__(self, hidden_size: int, devices: Mapping[Site, torch.device]) -> None:
        """Create tables that steer nothing. `devices`: where each site's layer is."""
        self.hidden_size = hidden_size
        self.devices = dict(devices)
        self.forward = ForwardContext(self.device)
        self.learned: dict[str, Learned] = {}
        self.has_handle = False  # a `Patched` reaches them
        self._off = False
        self._acting: list[Learned] = []  # the learned vectors, unless all is off
        self._tables = {
            site: SiteTable(site, self.forward, self._acting, self.move) for site in self.devices
        }
        self._meanings: list[tuple[EntryGroup, list[str]]] = []  # of the slots
        # What reads the stream for each condition, on the device of its site.
        self._deciding: dict[tuple[Condition, torch.device], Reader] = {}
        self._make_device_tables()
        self.write({}, [{}])

    def __getitem__(self, site: Site) -> SiteTable:
        """Return the table of a site."""
        return self._tables[site]

    def __iter__(self) -> Iterator[Site]:
        """Iterate over the sites."""
        return iter(self._tables)

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self._tables)

    @property
    def device(self) -> torch.device:
        """Where a forward starts."""
        return self.devices[Site(0, "resid_pre")]

    @property
    def is_read(self) -> bool:
        """Whether any site has readers."""
        return any(table.readers for table in self._tables.values())

    def reserve(self, settings: int, rows: int) -> None:
        """Make room now for what will come, so that no graph meets a change of addresses."""
        groups = len(self.forward.scopes)  # a setting may have a slot in each of them
        for tables in self.forward.device_tables:
            tables.make_room(settings * groups, rows, groups)
        self.forward.gates.make_room(rows)
        self.forward.memory.make_room(rows)

    def forget_graphs(self) -> None:
        """Stop announcing changes: no graph reads the tables any more."""
        self.forward.gates.read_by_graphs = False
        self.forward.memory.read_by_graphs = False
        for tables in self.forward.device_tables:
            tables.read_by_graphs = False

    def move(self, site: Site, device: torch.device) -> None:
        """Follow the site's layer to another device, also during a forward."""
        self.devices[site] = device
        self._make_device_tables()
        self.write(*self._written)
        self.forward.apply_mask()

    def follow_devices(self, devices: Sequence[torch.device]) -> None:
        """Follow layer i to ``devices[i]``; between forwards."""
        now = {site: devices[site.layer] for site in self}
        if now != self.devices:
            self.devices = now
            self.forward.move(self.device)
            self._make_device_tables()
            self.write(*self._written)

    def _make_device_tables(self) -> None:
        by_device: dict[torch.device, list[Site]] = {}
        for site, device in self.devices.items():
            by_device.setdefault(device, []).append(site)
        self.forward.device_tables = [
            DeviceTables(sites, self.hidden_size, device) for device, sites in by_device.items()
        ]
        for tables in self.forward.device_tables:
            for site in tables.sites:
                self._tables[site].place(tables)

    def learn(self, learned: Learned) -> None:
        """Add a learned vector; one of the same name is replaced."""
        self.learned[learned.name] = learned
        self._let_learned_act()

    def forget(self, name: str) -> None:
        """Remove a learned vector."""
        self.learned.pop(name, None)
        self._let_learned_act()

    def forget_all(self) -> None:
        """Remove all learned vectors."""
        self.learned.clear()
        self._let_learned_act()

    def turn_off(self, off: bool) -> None:
        """Let learned vectors not act, or act again; no table holds those."""
        self._off = off
        self._let_learned_act()

    def _let_learned_act(self) -> None:
        self._acting[:] = [] if self._off else self.learned.values()

    def write(
        self,
        interventions: Mapping[str, Intervention],
        settings: Sequence[Setting],
        sites: set[Site] | None = None,
    ) -> None:
        """Fold the vectors of some sites, or of all, into slots, and write the index of the rows.

        `settings`: one per row. A change for which there is no room, and none can be made, raises
        before anything is written.
        """
        assigned = assign_slots(interventions, settings)
        groups, slots, index = assigned.groups, assigned.slots, assigned.index
        parts = [part for _, part in slots] or [{}]
        uses_modes = any(one.does_more_than_add for one in interventions.values())
        scopes, conditions = [g.scope for g in groups], [g.when for g in groups]
        forward = self.forward
        # What graphs make of positions and conditions, group by group, is a part of them.
        layout_changed = (scopes, conditions) != (forward.scopes, forward.conditions) and (
            forward.may_need_tokens or any(scopes) or any(conditions)
        )
        for tables in forward.device_tables:
            tables.make_room(len(parts), len(index), len(groups), uses_modes, layout_changed)
        self._written = interventions, settings
        forward.rows = len(settings)
        forward.set_groups(groups, [group for group, _ in slots])
        self._read_conditions()
        meanings = [(group, list(part)) for group, part in slots]
        everything = sites is None or meanings != self._meanings
        self._meanings = meanings
        for tables in forward.device_tables:
            chosen = [
                at for at, site in enumerate(tables.sites) if everything or site in (sites or ())
            ]
            if chosen:
                places = [tables.sites[at] for at in chosen]
                folded = fold_coefficients(
                    interventions, parts, places, self.hidden_size, tables.device
                )
                tables.write(chosen, folded)
            tables.set_index(index)

    def _read_conditions(self) -> None:
        """Let each condition read the stream where it is decided."""
        conditions = self.forward.conditions
        wanted = {(c, self.devices[c.site]): None for c in conditions if c is not None}
        if self._deciding.keys() == wanted.keys():
            return
        for (condition, _), reader in self._deciding.items():
            self[condition.site].readers.remove(reader)
        self._deciding = {
            (condition, device): partial(
                self.forward.decide, condition, condition.direction_on(device)
            )
            for condition, device in wanted
        }
        for (condition, _), reader in self._deciding.items():
            self[condition.site].readers.append(reader)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        """Raise TypeError where the copy would be steered by vectors that no handle reaches."""
        if self.has_handle:
            raise TypeError(
                "a patched model cannot be copied, nor can its handle: unpatch() it, copy, and "
                "patch() both"
            )
        copied = Tables.__new__(Tables)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise TypeError: a pickle would hold classes and tables of faststeer."""
        raise TypeError(
            "a patched model cannot be pickled, nor saved whole by torch.save: use "
            "save_pretrained or state_dict, which are the stock model's, or unpatch() it first "
            "(faststeer.uninstall() where install() patched it)"
        )
