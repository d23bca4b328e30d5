"""The use that a vector's metadata state, and warnings and errors for any other.

A vector's metadata may state ``mode``, ``floor`` and ``ceiling`` of a cap, ``positions``,
``layers`` and ``coefficient`` (how, where and how strongly it is to steer), ``read_token`` and
``template`` (how it was read), ``model``, ``model_type`` and ``num_layers`` (for which model), and
the ``fingerprint`` of its weights. What is not stated is not checked.
docs/vectors.md lists the keys.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.bounds import Bound, bounded_layers, bounds_by_layer, bounds_to_json
from faststeer.vectors.position_range import NAMED_POSITIONS, PositionRange, positions_to_text

MODES = ("add", "project", "clamp", "cap")


class HasMetadata(Protocol):
    """A name and metadata: of a `SteeringVector`, or of the `VectorData` of its file."""

    @property
    def name(self) -> str:
        """Return the name that messages give."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata that may state a use."""


class HoldsRange(Protocol):
    """A scope that is a range of positions, such as `faststeer.first` returns."""

    @property
    def range(self) -> PositionRange:
        """Return the range."""


def require_mode(mode: str) -> None:
    """Raise ValueError for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; expected one of {', '.join(MODES)}")


def state_use(
    metadata: Mapping[str, Any],
    mode: str | None,
    positions: str | range | slice | HoldsRange | None,
    layers: Sequence[int] | None = None,
    coefficient: float | None = None,
    floor: Bound = None,
    ceiling: Bound = None,
) -> dict[str, Any]:
    """Return the metadata with this use stated in them.

    Raises:
        TypeError: a bound that is not a number.
        ValueError: an unknown mode, positions that no text can hold, a coefficient that is not
            finite, a cap without bounds or with impossible ones, or bounds of another mode.
    """
    stated = dict(metadata)
    if layers is not None:
        stated["layers"] = list(layers)
    if coefficient is not None:
        if not math.isfinite(coefficient):
            raise ValueError(f"coefficient is {coefficient}; expected a finite number")
        stated["coefficient"] = float(coefficient)
    if mode is not None:
        require_mode(mode)
        stated["mode"] = mode
    _state_bounds(stated, floor, ceiling)
    if positions is not None:
        text = None
        if isinstance(positions, (str, range, slice)):
            text = positions_to_text(positions)
        elif isinstance(getattr(positions, "range", None), PositionRange):
            text = str(positions.range)
        if text is None:
            names = ", ".join(map(repr, NAMED_POSITIONS))
            raise ValueError(
                f"positions={positions!r} cannot be written to a file; expected one of {names}, "
                "first(n), a range or a slice, which no tokenizer is needed for"
            )
        stated["positions"] = text
    return stated


def _state_bounds(stated: dict[str, Any], floor: Bound, ceiling: Bound) -> None:
    """Write bounds in place of stated ones, and leave none beside another mode than "cap"."""
    given = floor is not None or ceiling is not None
    mode = stated.get("mode", "add")
    if given and mode != "cap":
        raise ValueError(f"mode {mode!r} has no floor or ceiling; give mode='cap'")
    if given or mode != "cap":
        stated.pop("floor", None)
        stated.pop("ceiling", None)
    if given:
        # A layer that only one of them names has the other bound at infinity.
        bounds_by_layer(floor, ceiling, bounded_layers(floor, ceiling) or [0])
        own = {"floor": bounds_to_json(floor), "ceiling": bounds_to_json(ceiling)}
        stated.update((key, bound) for key, bound in own.items() if bound is not None)
    elif mode == "cap" and not stated.keys() & {"floor", "ceiling"}:
        raise ValueError("mode 'cap' needs bounds: give ceiling=, floor= or both")


def stated_setting(metadata: Mapping[str, Any]) -> str:
    """Return the layers and the coefficient that metadata state, in words."""
    layers, coefficient = metadata.get("layers"), metadata.get("coefficient")
    words = []
    if layers is not None:
        words.append(f"at {', '.join(map(str, layers)) if isinstance(layers, list) else layers}")
    if coefficient is not None:
        number = isinstance(coefficient, (int, float))
        words.append(f"with {coefficient:+.3g}" if number else f"with {coefficient}")
    return " ".join(words)


def require_same_use(one: HasMetadata, other: HasMetadata) -> None:
    """Raise ValueError for vectors of two uses, which cannot be combined; warn of two models."""
    uses = {"mode": "add", "positions": "all", "layers": None, "coefficient": None}
    uses |= {"floor": None, "ceiling": None}
    for key, default in uses.items():
        stated = (own.metadata.get(key) for own in (one, other))
        mine, theirs = (default if own is None else own for own in stated)
        if mine != theirs:
            raise ValueError(
                f"{one.name!r} states {key} {mine!r} and {other.name!r} {theirs!r}: they cannot be "
                "combined; steer with each"
            )
    models = [own.metadata.get("model") for own in (one, other)]
    prints = [own.metadata.get("fingerprint") for own in (one, other)]
    same = prints[0] is not None and prints[0] == prints[1]
    if all(models) and models[0] != models[1] and not same:
        warnings.warn(
            f"{one.name!r} was made for {models[0]!r} and {other.name!r} for {models[1]!r}",
            FaststeerWarning,
            stacklevel=4,
        )


def require_addition(vector: HasMetadata, kind: str, stacklevel: int = 2) -> None:
    """Raise ValueError for a vector that states another mode than "add"; warn of lost positions.

    Args:
        vector: the vector to write.
        kind: a format or package that adds every vector to every token.
        stacklevel: as of `warnings.warn`.
    """
    mode = vector.metadata.get("mode")
    if mode not in (None, "add"):
        raise ValueError(
            f"vector {vector.name!r} states mode {mode!r}, and {kind} only adds; save it as "
            ".safetensors, or as vector.for_use(mode='add')"
        )
    positions = vector.metadata.get("positions")
    if positions not in (None, "all"):
        chosen = f"{kind}, which steers all tokens"
        warn_of_other_use(vector, f"positions {positions!r}", chosen, stacklevel + 1)


def warn_of_other_use(vector: HasMetadata, stated: str, chosen: str, stacklevel: int) -> None:
    """Warn that a vector is used in another way than it states."""
    warnings.warn(
        f"vector {vector.name!r} states {stated}, but is used with {chosen}",
        FaststeerWarning,
        stacklevel=stacklevel,
    )


def warn_of_other_reading(
    vector: HasMetadata, read_token: str | int, template: str | None, stacklevel: int = 4
) -> None:
    """Warn where texts are read at another token, or in another template, than the vector's were.

    Args:
        vector: may state ``read_token`` and ``template``.
        read_token: as metadata hold it.
        template: of the texts, as `ChatFormat.digest`; None for plain texts.
        stacklevel: as of `warnings.warn`.
    """
    stated = vector.metadata.get("read_token")
    last = {"last": "-1"}
    mine, theirs = (last.get(str(own), str(own)) for own in (stated, read_token))
    if stated is not None and mine != theirs:
        used = f"read_token {read_token!r}"
        warn_of_other_use(vector, f"read_token {stated!r}", used, stacklevel)
    warn_of_other_template(vector, template, stacklevel + 1)


def warn_of_other_template(vector: HasMetadata, template: str | None, stacklevel: int = 4) -> None:
    """Warn where texts are in another chat template than the vector's texts were.

    Arguments are those of `warn_of_other_reading`.
    """
    stated = vector.metadata.get("template")
    if stated is not None and stated != template:
        chosen = "plain texts" if template is None else f"template {template!r}"
        if template is not None and template.partition("+")[0] == str(stated).partition("+")[0]:
            chosen += ", the same with another system prompt or other arguments"
        warn_of_other_use(vector, f"chat template {stated!r}", chosen, stacklevel)
