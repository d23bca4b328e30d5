"""Vectors that are trained while they steer: parameters that the kernels read directly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from faststeer.steering.device_tables import ADDED, Entries
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from faststeer.steering.intervention import Intervention
    from faststeer.steering.plan import Plan


class Learned(nn.Module):
    """A vector at work whose directions and coefficient are parameters, for an optimiser.

    `directions` holds a float32 parameter ``[H]`` for each layer, under the layer's number as text;
    `coefficient` is one number. Both live where the model does. Gradients reach them whenever grad
    is enabled, with gradient checkpointing too; the model's own weights can be frozen.
    """

    def __init__(self, plan: Plan, name: str, steered: Intervention) -> None:
        """Made by `Patched.learn`; starts from the steered vector."""
        super().__init__()
        self.name = name
        self._plan = [plan]  # in a list, because a plan is no part of the state
        self._vector = steered.vector
        self._sites = {steered.sites_of(layer)[0]: layer for layer in steered.factors}
        self.coefficient = nn.Parameter(torch.tensor(steered.coefficient, dtype=torch.float32))
        self.directions = nn.ParameterDict()
        for layer, factor in steered.factors.items():
            own = steered.vector.directions[layer] * factor
            device = plan.tables.devices[steered.sites_of(layer)[0]]
            self.directions[str(layer)] = nn.Parameter(own.to(device))
        self.coefficient.data = self.coefficient.data.to(device)

    @property
    def vector(self) -> SteeringVector:
        """What was learned so far, as a vector to save or to steer with: directions times
        coefficient.
        """
        scale = self.coefficient.detach().cpu()
        directions = {
            int(layer): direction.detach().cpu() * scale
            for layer, direction in self.directions.items()
        }
        facts = dict(self._vector.metadata) | {"method": "learned"}
        return SteeringVector(self.name, directions, self._vector.site, facts)

    def remove(self) -> None:
        """Stop steering with it; what was learned stays here."""
        self._plan[0].turns.require()
        self._plan[0].tables.learned.pop(self.name, None)

    def at(self, site: Site) -> Tensor | None:
        """Its direction ``[H]`` at a site, if it acts there."""
        layer = self._sites.get(site)
        return None if layer is None else self.directions[str(layer)]


def with_learned(entries: Entries, learned: Iterable[Learned], site: Site) -> Entries:
    """`entries`, and after them what of `learned` acts at a site; no table holds that."""
    acting = []
    for one in learned:  # torch.compile does not find `site` in a comprehension
        direction = one.at(site)
        if direction is not None:
            # A coefficient is one for all layers, which may be on several devices.
            acting.append((direction, one.coefficient.to(direction.device)))
    if not acting:
        return entries
    directions = torch.stack([direction for direction, _ in acting])
    coefficients = torch.stack([coefficient for _, coefficient in acting])
    vectors, ids, ones, modes = entries
    if vectors is None or ids is None or ones is None:
        line = torch.arange(len(acting), dtype=torch.int32, device=directions.device)
        return directions, line[None], coefficients[None], None
    line = torch.arange(len(acting), dtype=torch.int32, device=ids.device) + vectors.shape[0]
    rows = ids.shape[0]
    if modes is not None:
        modes = torch.cat([modes, modes.new_tensor(ADDED).expand(len(acting), 3)])
    return (
        torch.cat([vectors, directions.to(vectors.dtype)]),
        torch.cat([ids, line.expand(rows, -1)], 1).contiguous(),
        torch.cat([ones, coefficients.expand(rows, -1)], 1),
        modes,
    )
