"""What the slots of the tables hold: vectors summed with their coefficients, and projections.

Additions to the same tokens are one sum, however many vectors there are. What projects or clamps
depends on the order, so each such vector has a column, and slots, of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from faststeer.steering.conditions import Condition
from faststeer.steering.device_tables import ADDED, FoldedSlots
from faststeer.steering.intervention import Intervention, Weights
from faststeer.steering.positions import Scope
from faststeer.vectors.sites import Site

Setting = Mapping[str, Weights]  # by the name of a vector


@dataclass(frozen=True)
class EntryGroup:
    """What acts on the same tokens of the same sequences: a sum, or one projection."""

    scope: Scope | None = None
    when: Condition | None = None
    projects: str | None = None  # the name of a vector that is alone in its column

    @classmethod
    def of(cls, name: str, steered: Intervention) -> EntryGroup:
        """Where a vector belongs."""
        return cls(steered.scope, steered.when, None if steered.mode == "add" else name)


class SlotAssignment(NamedTuple):
    """The slots of each row: `ids` ``[R, K]`` int32 on the CPU, a column per group, -1 for none."""

    columns: list[EntryGroup]
    slots: list[tuple[EntryGroup, Setting]]
    ids: Tensor


def assign_slots(
    steered: Mapping[str, Intervention], settings: Sequence[Setting]
) -> SlotAssignment:
    """A slot for each different setting in each column; those without terms get none."""
    members: dict[EntryGroup, list[str]] = {EntryGroup(): []}
    for name, one in steered.items():
        members.setdefault(EntryGroup.of(name, one), []).append(name)
    slots: list[tuple[EntryGroup, Setting]] = []
    ids = torch.full((len(settings), len(members)), -1, dtype=torch.int32)
    for row, setting in enumerate(settings):
        for k, (column, names) in enumerate(members.items()):
            part = {name: setting[name] for name in names if name in setting}
            if part:
                if (column, part) not in slots:
                    slots.append((column, part))
                ids[row, k] = slots.index((column, part))
    return SlotAssignment(list(members), slots, ids)


def fold_coefficients(
    steered: Mapping[str, Intervention],
    slots: Sequence[Setting],
    sites: Sequence[Site],
    hidden_size: int,
    device: torch.device,
) -> FoldedSlots:
    """What the slots hold at `sites`, with terms in the order of `steered`.

    Products and sums are rounded one by one, as a kernel would that got the vectors apart.
    """
    vectors = torch.zeros(len(sites), len(slots), hidden_size, device=device)
    modes = torch.tensor(ADDED).repeat(len(sites), len(slots), 1)
    used, more = [False] * len(sites), [False] * len(sites)
    line = {site: i for i, site in enumerate(sites)}
    for name, one in steered.items():
        there = [slot.get(name, {}) for slot in slots]
        places = [
            (layer, line[site])
            for layer in one.vector.layers
            if any(layer in weights for weights in there)
            for site in one.sites_of(layer)
            if site in line
        ]
        if not places:
            continue
        layers, lines = [layer for layer, _ in places], [i for _, i in places]
        weights = torch.tensor([[slot.get(layer, 0.0) for slot in there] for layer in layers])
        acts = torch.tensor([[layer in slot for slot in there] for layer in layers])
        directions = torch.stack([one.vector.directions[layer] for layer in layers]).to(device)
        scale = (weights if one.mode == "add" else acts.float()).to(device)
        vectors[lines] += directions[:, None] * scale[..., None]
        if one.mode != "add":
            push, pull = one.push_and_pull(weights)
            moved = torch.stack([push, pull, modes[lines][..., 2]], 2)
            modes[lines] = torch.where(acts[..., None], moved, modes[lines])
        if one.keep_norm:
            modes[lines, :, 2] = torch.where(acts, 1.0, modes[lines, :, 2])
        for i in lines:
            used[i] = True
            more[i] = more[i] or one.does_more_than_add
    return FoldedSlots(vectors, modes.to(device), used, more)
