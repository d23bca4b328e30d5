"""The vectors that kernels read, at every site, in the forms that modes need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from faststeer.vectors.sites import Site
from faststeer.vllm.terms import Term

# What `faststeer.ops` calls push, pull, keep, floor and ceiling. A coefficient is the row's, so
# that distinct coefficients need no vectors of their own: a projection removes c times what lies
# along the direction, a floor raises it to c, a ceiling lowers it to c, and a clamp does both.
_ADDED, _REMOVED = (1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0)
_RAISED, _LOWERED = (1.0, 1.0, 0.0, 0.0, math.inf), (1.0, 1.0, 0.0, -math.inf, 0.0)
_KEPT = (1.0, 0.0, 1.0, 0.0, 0.0)
_KEEP_SLOT = 0  # a vector of zeros whose entry keeps the norm
_ROWS = 4  # of a vector: as it is, and at norm 1 to remove, to raise and to lower

Entries = list[tuple[int, float]]  # slot and coefficient, in the order of the kernel


class Slots:
    """The slots of all sites, at fixed addresses: `vectors` ``[sites, S, H]``, `modes` ``[S, 5]``.

    Every vector has the same slots at each site, with zeros where it has no direction.
    """

    def __init__(
        self, sites: Sequence[Site], hidden_size: int, capacity: int, device: torch.device
    ) -> None:
        """Create slots for `capacity` vectors."""
        self.sites = {site: i for i, site in enumerate(sites)}
        self.capacity = capacity
        self.probe_slot = 1 + _ROWS * capacity  # for the proof at start, and zero afterwards
        count = self.probe_slot + 1
        with torch.inference_mode(False):
            shape = (len(sites), count, hidden_size)
            self.vectors = torch.zeros(shape, dtype=torch.float32, device=device)
            modes = [_KEPT, *[_ADDED, _REMOVED, _RAISED, _LOWERED] * capacity, _ADDED]
            self.modes = torch.tensor(modes, dtype=torch.float32, device=device)
        self._held: dict[str, int] = {}  # by digest, the place of a vector

    def __contains__(self, digest: object) -> bool:
        """Return whether a vector of that content is held."""
        return digest in self._held

    @property
    def held(self) -> list[str]:
        """The digests of the vectors that are held."""
        return list(self._held)

    @property
    def full(self) -> bool:
        """Whether no place is free."""
        return len(self._held) == self.capacity

    def put(self, digest: str, directions: Mapping[Site, Tensor]) -> None:
        """Hold the directions ``[H]`` of a vector. Raises ValueError where no place is free."""
        if digest in self._held:
            return
        free = set(range(self.capacity)) - set(self._held.values())
        if not free:
            raise ValueError(
                f"all {self.capacity} vectors that this engine can hold are in use; remove some, "
                "wait for the requests that use removed ones, or start it with a larger capacity"
            )
        place = min(free)
        first = 1 + _ROWS * place
        with torch.inference_mode(False), torch.no_grad():
            self.vectors[:, first : first + _ROWS] = 0
            for site, direction in directions.items():
                norm = direction.norm()
                unit = direction / norm if norm > 0 else direction
                rows = torch.stack([direction, unit, unit, unit]).to(self.vectors.device)
                self.vectors[self.sites[site], first : first + _ROWS] = rows
        self._held[digest] = place

    def release(self, digest: str) -> None:
        """Free the place of a vector that no request uses any more."""
        del self._held[digest]

    def entries(self, active: Sequence[Term]) -> dict[int, Entries]:
        """Return the entries of terms that act together, by the number of the site.

        Sites of other processes (pipeline stages) are left out.
        """
        found: dict[int, Entries] = {}
        kept = set()
        for term in active:
            first = 1 + _ROWS * self._held[term.digest]
            for layer, coefficient in term.coefficients:
                site = self.sites.get(Site.of(layer, term.site))
                if site is None:
                    continue
                own = found.setdefault(site, [])
                if term.mode == "add":
                    own.append((first, coefficient))
                elif term.mode == "project":
                    own.append((first + 1, coefficient))
                if term.mode in ("floor", "clamp"):
                    own.append((first + 2, coefficient))
                if term.mode in ("ceiling", "clamp"):
                    own.append((first + 3, coefficient))
                if term.keep_norm and site not in kept:
                    kept.add(site)
                    own.append((_KEEP_SLOT, 0.0))
        return found
