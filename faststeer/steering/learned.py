"""Trainable steering vectors: parameters that the kernels read directly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from faststeer.steering.device_tables import ADDED, Entries
from faststeer.steering.intervention import Intervention
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector


class Learned(nn.Module):
    """An active vector whose directions and coefficient are parameters, for an optimiser.

    `directions` holds a float32 parameter ``[H]`` per layer, under the layer's number as text;
    `coefficient` is one number. Both live where the model does. Gradients reach them whenever grad
    is enabled, with gradient checkpointing too; the model's own weights can be frozen.
    """

    def __init__(
        self,
        name: str,
        intervention: Intervention,
        devices: Mapping[Site, torch.device],
        remove: Callable[[str], None],
    ) -> None:
        """Start from the vector of `intervention`; made by `Patched.learn`.

        Args:
            name: the name under which it steers.
            intervention: vector, coefficient and layers.
            devices: of each site.
            remove: removes the vector of a name.
        """
        super().__init__()
        self.name = name
        self._remove = remove
        self._vector = intervention.vector
        self._sites = {intervention.sites_of(layer)[0]: layer for layer in intervention.factors}
        self.coefficient = nn.Parameter(torch.tensor(intervention.coefficient, dtype=torch.float32))
        self.directions = nn.ParameterDict()
        for layer, factor in intervention.factors.items():
            own = intervention.vector.directions[layer] * factor
            device = devices[intervention.sites_of(layer)[0]]
            self.directions[str(layer)] = nn.Parameter(own.to(device))
        self.coefficient.data = self.coefficient.data.to(device)

    @property
    def sites(self) -> set[Site]:
        """The sites that it acts at."""
        return set(self._sites)

    @property
    def vector(self) -> SteeringVector:
        """The current directions times the coefficient, as a vector to save or to steer with."""
        scale = self.coefficient.detach().cpu()
        directions = {
            int(layer): direction.detach().cpu() * scale
            for layer, direction in self.directions.items()
        }
        facts = dict(self._vector.metadata) | {"method": "learned"}
        return SteeringVector(self.name, directions, self._vector.site, facts)

    def remove(self) -> None:
        """Stop steering with it; the parameters stay."""
        self._remove(self.name)

    def at(self, site: Site) -> Tensor | None:
        """Return its direction ``[H]`` at a site, None where it does not act."""
        layer = self._sites.get(site)
        return None if layer is None else self.directions[str(layer)]


def with_learned(entries: Entries, learned: Iterable[Learned], site: Site) -> Entries:
    """Append the learned vectors of a site to its entries; no table holds them."""
    acting = []
    for one in learned:  # torch.compile does not find `site` in a comprehension
        direction = one.at(site)
        if direction is not None:
            # A coefficient is one for all layers, which may be on several devices.
            acting.append((direction, one.coefficient.to(direction.device)))
    if not acting:
        return entries
    directions = torch.stack([direction for direction, _ in acting])
    coefficients = torch.stack([one for _, one in acting])
    vectors, index, coefficient, modes = entries
    if vectors is None or index is None or coefficient is None:
        line = torch.arange(len(acting), dtype=torch.int32, device=directions.device)
        return directions, line[None], coefficients[None], None
    line = torch.arange(len(acting), dtype=torch.int32, device=index.device) + vectors.shape[0]
    rows = index.shape[0]
    if modes is not None:
        modes = torch.cat([modes, modes.new_tensor(ADDED).expand(len(acting), -1)])
    return (
        torch.cat([vectors, directions.to(vectors.dtype)]),
        torch.cat([index, line.expand(rows, -1)], 1).contiguous(),
        torch.cat([coefficient, coefficients.expand(rows, -1)], 1),
        modes,
    )
