"""SteeringVector: one direction a layer, with arithmetic and a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from faststeer.vectors import stated_use
from faststeer.vectors.sites import SITES


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Directions to add to the residual stream, one a layer.

    Args:
        name: what it steers; handles and files carry it.
        directions: 0-based decoder layer -> direction ``[H]``. Copied to float32 on the CPU.
        site: ``resid_pre``, ``resid_mid`` (after attention) or ``resid_post`` (a layer's output).
        metadata: facts about its making (model, method, read_token, ...) and its use (mode,
            positions); docs/vectors.md lists the keys.

    Raises:
        TypeError: a layer that is no int, or a direction that is no tensor.
        ValueError: no directions, a negative layer, directions that are not 1-D, of unequal size
            or not finite in float32, or an unknown site.
    """

    name: str
    directions: Mapping[int, Tensor]
    site: str = "resid_post"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"site {self.site!r} is unknown; expected one of {', '.join(SITES)}")
        if not self.directions:
            raise ValueError(f"vector {self.name!r} has no directions; give {{layer: tensor}}")
        own = {}
        for layer, direction in self.directions.items():
            own[int(layer)] = self._checked(layer, direction)
        own = {layer: own[layer] for layer in sorted(own)}
        sizes = sorted({direction.numel() for direction in own.values()})
        if len(sizes) > 1:
            raise ValueError(f"vector {self.name!r} has directions of sizes {sizes}; expected one")
        object.__setattr__(self, "directions", own)
        object.__setattr__(self, "metadata", dict(self.metadata))

    def _checked(self, layer: Any, direction: Any) -> Tensor:
        where = f"vector {self.name!r}, layer {layer!r}"
        if not isinstance(layer, Integral):  # numpy has ints of its own
            raise TypeError(f"{where}: a layer is an int, not a {type(layer).__name__}")
        if not isinstance(direction, Tensor):
            raise TypeError(f"{where}: got a {type(direction).__name__}; expected a tensor [H]")
        if layer < 0:
            raise ValueError(f"{where}: layers count from 0")
        if direction.dim() != 1 or direction.numel() == 0:
            raise ValueError(f"{where}: shape {tuple(direction.shape)}; expected a direction [H]")
        own: Tensor = direction.detach().to("cpu", torch.float32, copy=True).contiguous()
        if not own.isfinite().all():
            bad = int((~own.isfinite()).sum())
            raise ValueError(f"{where}: {bad} of {own.numel()} values are NaN or infinite")
        return own

    @property
    def layers(self) -> list[int]:
        """The layers it has directions for, ascending."""
        return list(self.directions)

    @property
    def hidden_size(self) -> int:
        """H, the size of every direction."""
        return next(iter(self.directions.values())).numel()

    def norms(self) -> dict[int, float]:
        """The Euclidean norm of each layer's direction."""
        return {layer: float(d.norm()) for layer, d in self.directions.items()}

    def normalized(self) -> SteeringVector:
        """Every direction scaled to norm 1. Raises ValueError where one is zero."""
        for layer, norm in self.norms().items():
            if norm == 0:
                raise ValueError(
                    f"vector {self.name!r}, layer {layer}: a zero cannot be normalised"
                )
        return self._with({layer: d / d.norm() for layer, d in self.directions.items()})

    def with_norms(self, norms: float | Mapping[int, float]) -> SteeringVector:
        """Every direction scaled to a norm: one for all layers, or {layer: norm}.

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
        """Every coordinate divided by its standard deviation; each direction keeps its norm.

        Coordinates that vary much in all texts then count less.

        Args:
            variances: ``[H]`` of each layer, as `faststeer.Moments` of plain text has them:
                ``{layer: moments.variance[0]}``.

        Raises:
            ValueError: a layer without variances, or one that is not above 0.
        """
        directions = {}
        for layer, direction in self.directions.items():
            variance = variances.get(layer)
            if variance is None or variance.shape != direction.shape or not (variance > 0).all():
                raise ValueError(
                    f"vector {self.name!r}, layer {layer}: expected {direction.numel()} variances "
                    "above 0"
                )
            directions[layer] = direction.double() / variance.cpu().double().sqrt()
        return self._with(directions).with_norms(self.norms())

    def select(self, layers: Iterable[int]) -> SteeringVector:
        """The same vector with these layers only. Raises ValueError for one it lacks."""
        return self._with({layer: self._at(layer) for layer in layers})

    def at(self, layer: int, to: int | None = None) -> SteeringVector:
        """The direction of `layer` alone, moved to layer `to` where that is given."""
        return self._with({layer if to is None else to: self._at(layer)})

    def for_use(
        self, *, mode: str | None = None, positions: str | range | slice | None = None
    ) -> SteeringVector:
        """Return the same vector, its metadata stating how it is to steer; files keep that.

        `Patched.steer` and others take what the vector states where they are not told otherwise,
        and warn where they are.

        Args:
            mode: "add", "project" or "clamp", as for `Patched.steer`.
            positions: as for `Patched.steer`: a name, a range or a slice.

        Raises:
            ValueError: an unknown mode, or positions that no text can hold.
        """
        return replace(self, metadata=stated_use.state_use(self.metadata, mode, positions))

    def save(self, path: str | PathLike[str], file_format: str | None = None) -> None:
        """Write a file, whole or not at all.

        Args:
            path: by default its ending says the format: ``.safetensors``, ``.gguf`` or ``.pt``; a
                folder that is there gets CAA's ``.pt`` for each layer.
            file_format: "safetensors", "gguf", "caa" or "lm-eval". Only the first keeps everything;
                where others add their vectors is told in `faststeer.formats`.

        Raises:
            ValueError: an unknown format, or one that cannot hold this vector.
            FileNotFoundError: the folder does not exist.
        """
        from faststeer.vectors.formats import detect

        detect.save(self, path, file_format)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        layer: int | None = None,
        shift: bool = False,
        rows: str | None = None,
    ) -> SteeringVector:
        """Load a vector; the format is detected from the file's content.

        Formats are those that `save` writes, ``.svec`` of IBM's activation-steering and persona
        vectors. A file that states another use than faststeer has is refused by name.

        Args:
            path: the file, or a folder of CAA's ``vec_layer_{L}_{model}.pt``.
            layer: only this one; for a ``.pt`` whose name does not say its layer, what it is.
            shift: the file is a GGUF of llama.cpp's cvector-generator, which numbers layers from 1.
            rows: what the rows of a ``.pt`` with one tensor ``[N, H]`` are, where its name does not
                say it: "hidden_states" as transformers returns them (row 0 is the embedding) or
                "layers" (row i is the output of layer i).

        Raises:
            OSError: the file cannot be opened; the message names it.
            ValueError: it is damaged or no vector; the message names the file.
        """
        from faststeer.vectors.formats import detect

        return detect.load(path, layer, shift, rows)

    @classmethod
    def from_object(cls, source: Any, name: str = "vector") -> SteeringVector:
        """A copy of steering-vectors' `SteeringVector` or repeng's `ControlVector`.

        Raises:
            TypeError: it is neither.
            ValueError: it is added where there is no residual stream.
        """
        from faststeer.vectors.formats import other_packages

        return other_packages.from_object(source, name)

    def to_object(self, package: str) -> Any:
        """A copy for "steering-vectors" or "repeng", which has to be installed.

        Raises:
            ValueError: another package, or a site that it has no place for.
            ModuleNotFoundError: the package is missing.
        """
        from faststeer.vectors.formats import other_packages

        return other_packages.to_object(self, package)

    def _at(self, layer: int) -> Tensor:
        if layer not in self.directions:
            raise ValueError(
                f"vector {self.name!r} has no direction for layer {layer}; it has {self.layers}"
                f" (vector.at(layer, to={layer}) moves one)"
            )
        return self.directions[layer]

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
        directions = dict(self.directions)
        for layer, direction in other.directions.items():
            mine = directions.get(layer)
            directions[layer] = sign * direction if mine is None else mine + sign * direction
        sym = "+" if sign > 0 else "-"
        return replace(self, name=f"{self.name}{sym}{other.name}", directions=directions)

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """Layer by layer; a layer that one of them lacks counts as zero there."""
        return self._combined(other, 1.0)

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        """Layer by layer; a layer that one of them lacks counts as zero there."""
        return self._combined(other, -1.0)

    def __mul__(self, factor: float) -> SteeringVector:
        """Every direction times `factor`."""
        return self._with({layer: d * factor for layer, d in self.directions.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> SteeringVector:
        """Every direction divided by `divisor`."""
        return self._with({layer: d / divisor for layer, d in self.directions.items()})

    def __neg__(self) -> SteeringVector:
        """The opposite direction."""
        return self * -1.0

    def __repr__(self) -> str:
        """Name, site, size and layers; never the numbers."""
        return (
            f"SteeringVector({self.name!r}, {self.site}, hidden size {self.hidden_size}, "
            f"layers {self.layers})"
        )


def common_norms(vectors: Iterable[SteeringVector]) -> dict[int, float]:
    """The mean norm of several vectors at each layer that any of them has, for `with_norms`."""
    norms: dict[int, list[float]] = {}
    for vector in vectors:
        for layer, norm in vector.norms().items():
            norms.setdefault(layer, []).append(norm)
    return {layer: sum(own) / len(own) for layer, own in norms.items()}
