"""Fold interventions into slots: vectors summed with their coefficients, and projections.

Additions to the same tokens are one sum, however many vectors there are. Projections, clamps and
caps depend on the order, so each such vector has a group, and slots, of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from faststeer.steering.conditions import Condition
from faststeer.steering.device_tables import ADDED, FoldedSlots
from faststeer.steering.intervention import Intervention, Strengths
from faststeer.steering.scopes import Scope
from faststeer.vectors.sites import Site

Setting = Mapping[str, Strengths]  # of a row: by vector name, then by layer


@dataclass(frozen=True)
class EntryGroup:
    """A column of the index: what acts on the same tokens of the same sequences.

    It is a sum of added vectors, or one projection.
    """

    scope: Scope | None = None
    when: Condition | None = None
    projects: str | None = None  # the name of a vector that is alone in its group

    @classmethod
    def of(cls, name: str, intervention: Intervention) -> EntryGroup:
        """Return the group that an intervention belongs to."""
        alone = None if intervention.mode == "add" else name
        return cls(intervention.scope, intervention.when, alone)


@dataclass(frozen=True)
class SlotAssignment:
    """The slots of each row: `index` ``[R, K]`` int32 on the CPU, a column per group, -1: none."""

    groups: list[EntryGroup]
    slots: list[tuple[EntryGroup, Setting]]
    index: Tensor


def assign_slots(
    interventions: Mapping[str, Intervention], settings: Sequence[Setting]
) -> SlotAssignment:
    """Assign one slot to each different setting in each group; those without terms get none."""
    members: dict[EntryGroup, list[str]] = {EntryGroup(): []}
    for name, one in interventions.items():
        members.setdefault(EntryGroup.of(name, one), []).append(name)
    slots: list[tuple[EntryGroup, Setting]] = []
    index = torch.full((len(settings), len(members)), -1, dtype=torch.int32)
    for row, setting in enumerate(settings):
        for k, (group, names) in enumerate(members.items()):
            part = {name: setting[name] for name in names if name in setting}
            if part:
                if (group, part) not in slots:
                    slots.append((group, part))
                index[row, k] = slots.index((group, part))
    return SlotAssignment(list(members), slots, index)


def fold_coefficients(
    interventions: Mapping[str, Intervention],
    slots: Sequence[Setting],
    sites: Sequence[Site],
    hidden_size: int,
    device: torch.device,
) -> FoldedSlots:
    """Fold vectors and coefficients into the slots at `sites`, in the order of `interventions`.

    Products and sums are rounded one by one, as by a kernel that is given each vector.
    """
    vectors = torch.zeros(len(sites), len(slots), hidden_size, device=device)
    modes = torch.tensor(ADDED).repeat(len(sites), len(slots), 1)
    used, use_modes = [False] * len(sites), [False] * len(sites)
    line = {site: i for i, site in enumerate(sites)}
    for name, one in interventions.items():
        by_slot = [slot.get(name, {}) for slot in slots]
        places = [
            (layer, line[site])
            for layer in one.vector.layers
            if any(layer in coefficients for coefficients in by_slot)
            for site in one.sites_of(layer)
            if site in line
        ]
        if not places:
            continue
        layers, lines = [layer for layer, _ in places], [i for _, i in places]
        given = [[slot.get(layer, 0.0) for slot in by_slot] for layer in layers]
        acts = torch.tensor([[layer in slot for slot in by_slot] for layer in layers])
        directions = torch.stack([one.vector.directions[layer] for layer in layers]).to(device)
        factor = (torch.tensor(given) if one.mode == "add" else acts.float()).to(device)
        vectors[lines] += directions[:, None] * factor[..., None]
        if one.mode != "add":
            own = torch.tensor([[one.kernel_mode(strength) for strength in row] for row in given])
            modes[lines] = torch.where(acts[..., None], own, modes[lines])
        elif one.keep_norm:
            modes[lines, :, 2] = torch.where(acts, 1.0, modes[lines, :, 2])
        for i in lines:
            used[i] = True
            use_modes[i] = use_modes[i] or one.does_more_than_add
    return FoldedSlots(vectors, modes.to(device), used, use_modes)
