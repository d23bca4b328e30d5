"""What is steered where: named vectors, summed into tables that the kernels read.

Each place in the model where a vector can go has one `Table` whose tensors keep their addresses
while patched, so a change reaches compiled graphs and captured ones. Vectors that share a setting
are summed when they are set, never once a token: sixteen vectors cost what one costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from faststeer.vectors import SteeringVector

Entries = tuple[Tensor | None, Tensor | None, Tensor | None]
NO_ENTRIES: Entries = (None, None, None)


@dataclass(frozen=True)
class Site:
    """A place in the residual stream. Every place has one name: see `of`."""

    layer: int
    kind: str

    @classmethod
    def of(cls, layer: int, kind: str) -> Site:
        """``resid_pre`` of layer L is ``resid_post`` of L-1, and for layer 0 the embedding."""
        if kind == "resid_pre" and layer > 0:
            return cls(layer - 1, "resid_post")
        return cls(layer, kind)


class Table:
    """One site's entries: settings (rows of `index`) that point at summed vectors.

    `vectors` ``[S, H]`` float32, `index` ``[R, 1]`` int32 and `coefficient` ``[R, 1]`` float32, as
    `faststeer.ops` takes them. All sequences share one setting: S = R = 1.
    """

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        """Allocates the tensors; an inference tensor could not be changed outside inference."""
        with torch.inference_mode(False):
            self.vectors = torch.zeros(1, hidden_size, dtype=torch.float32, device=device)
            self.index = torch.full((1, 1), -1, dtype=torch.int32, device=device)
            self.coefficient = torch.ones(1, 1, dtype=torch.float32, device=device)
        self.active = False

    def entries(self, device: torch.device) -> Entries:
        """The three tensors on `device`, or none of them where nothing is steered.

        A compiled graph always gets the tensors: None would be another graph.
        """
        if not torch.compiler.is_compiling() and not self.active:
            return NO_ENTRIES
        if self.vectors.device != device:
            self._move(device)
        return self.vectors, self.index, self.coefficient

    def write(self, terms: list[tuple[float, Tensor]]) -> None:
        """Set the sum of coefficient * direction, in order; no terms: steer nothing."""
        with torch.no_grad():
            row = self.vectors[0]
            row.zero_()
            for coefficient, direction in terms:
                row += direction.to(row.device) * coefficient
            self.index.fill_(0 if terms else -1)
        self.active = bool(terms)

    def _move(self, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.vectors = self.vectors.to(device)
            self.index = self.index.to(device)
            self.coefficient = self.coefficient.to(device)


@dataclass
class Steered:
    """A vector at work: its coefficient and a factor for each layer it steers."""

    vector: SteeringVector
    coefficient: float
    factors: Mapping[int, float]

    def terms(self) -> Iterator[tuple[Site, float, Tensor]]:
        """Where it goes, with which weight."""
        for layer, factor in self.factors.items():
            site = Site.of(layer, self.vector.site)
            yield site, self.coefficient * factor, self.vector.directions[layer]

    def require_finite(self) -> None:
        """Raise ValueError where a product overflows float32."""
        for site, coefficient, direction in self.terms():
            largest = abs(coefficient) * float(direction.abs().max())
            if not max(abs(coefficient), largest) <= torch.finfo(torch.float32).max:
                raise ValueError(
                    f"coefficient {coefficient:g} times {self.vector.name!r} at layer {site.layer} "
                    "is more than float32 can hold"
                )

    def sites(self) -> set[Site]:
        """The places it steers."""
        return {Site.of(layer, self.vector.site) for layer in self.factors}


@dataclass
class Plan:
    """All vectors at work on one model, by name, and the tables they are summed into."""

    tables: dict[Site, Table]
    steered: dict[str, Steered] = field(default_factory=dict)
    times_off: int = 0

    @classmethod
    def for_layers(cls, devices: list[torch.device], hidden_size: int) -> Plan:
        """Tables for a model whose layer i lives on ``devices[i]``."""
        tables = {Site(0, "resid_pre"): Table(hidden_size, devices[0])}
        for layer, device in enumerate(devices):
            tables[Site(layer, "resid_mid")] = Table(hidden_size, device)
            tables[Site(layer, "resid_post")] = Table(hidden_size, device)
        return cls(tables)

    def put(self, name: str, steered: Steered) -> None:
        """Add a vector; one of the same name is replaced and takes its place in the order."""
        before = self.steered.get(name)
        self.steered[name] = steered
        self._rewrite(steered.sites() | (before.sites() if before else set()))

    def set_coefficient(self, steered: Steered, coefficient: float) -> None:
        """Change one coefficient in place. Raises ValueError where it overflows float32."""
        replace(steered, coefficient=coefficient).require_finite()
        steered.coefficient = coefficient
        self._rewrite(steered.sites())

    def remove(self, name: str) -> None:
        """Take a vector away."""
        self._rewrite(self.steered.pop(name).sites())

    def clear(self) -> None:
        """Take all vectors away."""
        self.steered.clear()
        self._rewrite(set(self.tables))

    @contextmanager
    def off(self) -> Iterator[None]:
        """Steer nothing inside; nests."""
        self.times_off += 1  # a count, because blocks of several threads may overlap
        try:
            self._rewrite(set(self.tables))
            yield
        finally:
            self.times_off -= 1
            self._rewrite(set(self.tables))

    def _rewrite(self, sites: set[Site]) -> None:
        terms: dict[Site, list[tuple[float, Tensor]]] = {site: [] for site in sites}
        if self.times_off == 0:
            for steered in self.steered.values():
                for site, coefficient, direction in steered.terms():
                    if site in terms:
                        terms[site].append((coefficient, direction))
        for site in sites:
            self.tables[site].write(terms[site])


def finite(coefficient: float, what: str) -> float:
    """`coefficient` as a float. Raises TypeError or ValueError where it is none, or not finite."""
    if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float)):
        raise TypeError(f"{what} is a {type(coefficient).__name__}; expected a number")
    if not math.isfinite(coefficient):
        raise ValueError(f"{what} is {coefficient}; expected a finite number")
    return float(coefficient)
