"""SteeringVector: one direction per layer, with arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from faststeer.utils.html_facts import html_facts
from faststeer.vectors import stated_use
from faststeer.vectors.bounds import Bound, bounded_layers
from faststeer.vectors.directions import add, checked_directions, whiten
from faststeer.vectors.formats.vector_data import VectorData
from faststeer.vectors.layer_text import layers_text
from faststeer.vectors.sites import SITES
from faststeer.vectors.vector_sources import VectorSources

_USE = ("mode", "floor", "ceiling", "positions")  # metadata that `repr` shows


@dataclass(frozen=True, eq=False)
class SteeringVector(VectorSources):
    """Directions to add to the residual stream, one per layer.

    Args:
        name: what it steers; handles and files carry it.
        directions: 0-based decoder layer -> direction ``[H]``. Copied to float32 on the CPU.
        site: ``resid_pre``, ``resid_mid`` (after attention) or ``resid_post`` (a layer's output).
        metadata: facts about how it was made (model, method, read_token, ...) and how it is to be
            used (mode, bounds, positions, layers, coefficient); docs/vectors.md lists the keys.

    Raises:
        TypeError: a layer that is not an int, or a direction that is not a tensor.
        ValueError: no directions, a negative layer, directions that are not 1-D, of unequal size
            or not finite in float32, or an unknown site.
    """

    name: str
    directions: Mapping[int, Tensor]
    site: str = "resid_post"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    # NumPy's numbers would take a vector for a sequence, and multiply its layers.
    __array_ufunc__: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"site {self.site!r} is unknown; expected one of {', '.join(SITES)}")
        object.__setattr__(self, "directions", checked_directions(self.name, self.directions))
        object.__setattr__(self, "metadata", dict(self.metadata))

    @property
    def layers(self) -> list[int]:
        """Return the layers that have directions, ascending."""
        return list(self.directions)

    @property
    def hidden_size(self) -> int:
        """Return H, the size of every direction."""
        return next(iter(self.directions.values())).numel()

    def norms(self) -> dict[int, float]:
        """Return the Euclidean norm of each layer's direction."""
        return {layer: float(d.norm()) for layer, d in self.directions.items()}

    def normalized(self) -> SteeringVector:
        """Scale every direction to norm 1. Raises ValueError where one is zero."""
        for layer, norm in self.norms().items():
            if norm == 0:
                raise ValueError(
                    f"vector {self.name!r}, layer {layer}: a zero cannot be normalised"
                )
        return self._with({layer: d / d.norm() for layer, d in self.directions.items()})

    def with_norms(self, norms: float | Mapping[int, float]) -> SteeringVector:
        """Scale every direction to a norm: one for all layers, or {layer: norm}.

        With `common_norms` several behaviours get the same norm at each layer, as CAA gives them
        (Rimsky et al. 2024, arXiv 2312.06681).

        Raises:
            ValueError: a direction that is zero, or a layer without a norm.
        """
        wanted = norms if isinstance(norms, Mapping) else dict.fromkeys(self.layers, norms)
        for layer in self.layers:
            if layer not in wanted:
                raise ValueError(f"vector {self.name!r}: no norm is given for layer {layer}")
        unit = self.normalized().directions
        return self._with({layer: d * wanted[layer] for layer, d in unit.items()})

    def whitened(self, variances: Mapping[int, Tensor]) -> SteeringVector:
        """Divide every coordinate by its standard deviation; each direction keeps its norm.

        Coordinates that vary much in all texts then count less.

        Args:
            variances: ``[H]`` of each layer, as `faststeer.Moments` of plain text has them:
                ``{layer: moments.variance[0]}``.

        Raises:
            ValueError: a layer without variances, or one that is not above 0.
        """
        whitened = whiten(self.name, self.directions, variances)
        return self._with(whitened).with_norms(self.norms())

    def select(self, layers: int | Iterable[int]) -> SteeringVector:
        """Return the vector with these layers only. Raises ValueError for one that it lacks."""
        chosen = [layers] if isinstance(layers, int) else layers
        return self._chosen({layer: self._at(layer) for layer in chosen})

    def at(self, layer: int, to: int | None = None) -> SteeringVector:
        """Return the vector with the direction of `layer` only, at layer `to` if that is given."""
        return self._chosen({layer if to is None else to: self._at(layer)})

    def for_use(
        self,
        *,
        mode: str | None = None,
        positions: str | range | slice | stated_use.HoldsRange | None = None,
        layers: int | Sequence[int] | None = None,
        coefficient: float | None = None,
        floor: Bound = None,
        ceiling: Bound = None,
    ) -> SteeringVector:
        """Return the vector with metadata that state how it is to steer; files keep them.

        `Patched.steer` and others use what the vector states unless they are given otherwise;
        another mode, or other positions, give a warning then.

        Args:
            mode: "add", "project", "clamp" or "cap", as for `Patched.steer`.
            positions: as for `Patched.steer`: a name, a range, a slice or `faststeer.first`; other
                scopes depend on a tokenizer, which no file holds.
            layers: those of the vector's layers that it is to steer; with bounds by layer, theirs.
            coefficient: the factor on them, such as a tuned one.
            floor: with mode "cap", the least projection, as for `Patched.cap`.
            ceiling: with mode "cap", the greatest, likewise.

        Raises:
            TypeError: a bound that is not a number.
            ValueError: an unknown mode, positions that no text can hold, a layer that the vector
                lacks, a coefficient that is not finite, or a cap without bounds.
        """
        chosen = None
        if layers is None:
            layers = bounded_layers(floor, ceiling)
        if layers is not None:
            chosen = self.select([layers] if isinstance(layers, int) else layers).layers
        stated = stated_use.state_use(
            self.metadata, mode, positions, chosen, coefficient, floor, ceiling
        )
        return replace(self, metadata=stated)

    def _data(self) -> VectorData:
        return VectorData(self.name, self.directions, self.site, self.metadata)

    @classmethod
    def _of(cls, data: VectorData) -> SteeringVector:
        return cls(*data)

    def _at(self, layer: int) -> Tensor:
        if layer not in self.directions:
            raise ValueError(
                f"vector {self.name!r} has no direction for layer {layer}; it has {self.layers}"
                f" (vector.at(layer, to={layer}) moves one)"
            )
        return self.directions[layer]

    def _chosen(self, directions: Mapping[int, Tensor]) -> SteeringVector:
        """Return the vector with these layers; they replace stated ones that are not among them."""
        stated = self.metadata.get("layers")
        kept = isinstance(stated, list) and set(stated) <= directions.keys()
        metadata = {k: v for k, v in self.metadata.items() if k != "layers" or kept}
        return replace(self, directions=directions, metadata=metadata)

    def _with(self, directions: Mapping[int, Tensor]) -> SteeringVector:
        return replace(self, directions=directions)

    def _combined(self, other: SteeringVector, sign: float) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        if other.site != self.site or other.hidden_size != self.hidden_size:
            raise ValueError(
                f"{self.name!r} ({self.site}, hidden size {self.hidden_size}) and {other.name!r} "
                f"({other.site}, {other.hidden_size}) cannot be combined: both must be equal"
            )
        stated_use.require_same_use(self, other)
        name = f"{self.name}{'+' if sign > 0 else '-'}{other.name}"
        return replace(self, name=name, directions=add(self.directions, other.directions, sign))

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """Add per layer; a layer that one of them lacks counts as zero there."""
        return self._combined(other, 1.0)

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        """Subtract per layer; a layer that one of them lacks counts as zero there."""
        return self._combined(other, -1.0)

    def __mul__(self, factor: float) -> SteeringVector:
        """Multiply every direction by `factor`."""
        return self._with({layer: d * factor for layer, d in self.directions.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SteeringVector:
        """Divide every direction by `divisor`."""
        return self._with({layer: d / divisor for layer, d in self.directions.items()})

    def __neg__(self) -> SteeringVector:
        """Return the opposite direction."""
        return self * -1.0

    def __getitem__(self, layer: int) -> Tensor:
        """Return the direction ``[H]`` of a layer. Raises KeyError, which names the layers."""
        if layer not in self.directions:
            raise KeyError(
                f"vector {self.name!r} has no direction for layer {layer}; it has "
                f"{layers_text(self.layers)}"
            )
        return self.directions[layer]

    def __len__(self) -> int:
        """Return the number of layers that have directions."""
        return len(self.directions)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the layers, ascending."""
        return iter(self.directions)

    def __contains__(self, layer: object) -> bool:
        """Return whether a layer has a direction."""
        return layer in self.directions

    def __repr__(self) -> str:
        """Show name, site, size, layers and stated use; never the numbers."""
        use = "".join(f", {name} {self.metadata[name]}" for name in _USE if name in self.metadata)
        if "layers" in self.metadata or "coefficient" in self.metadata:
            use += f"; steers {stated_use.stated_setting(self.metadata)}"
        return (
            f"SteeringVector({self.name!r}, {self.site}, hidden size {self.hidden_size}, "
            f"{layers_text(self.layers)}{use})"
        )

    def _repr_html_(self) -> str:
        """Return the same and the metadata as a table, for notebooks."""
        layers = layers_text(self.layers).partition(" ")[2]
        facts = {"site": self.site, "hidden size": self.hidden_size, "layers": layers}
        return html_facts(f"SteeringVector {self.name!r}", {**facts, **self.metadata})
