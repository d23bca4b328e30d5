"""The use that a vector's metadata state, held against the use that is made of it.

A vector's metadata may state ``mode`` and ``positions`` (how and where it is to steer),
``read_token`` and ``template`` (how it was read), ``model``, ``model_type`` and ``num_layers``
(for what). What is not stated is not held. docs/vectors.md lists the keys.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch

from faststeer.steering.intervention import MODES
from faststeer.steering.positions import NAMED, Between, Positions, Scope, scope_of
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector

_NAMES = ", ".join(map(repr, NAMED))
_RANGE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")


def intended_mode(vector: SteeringVector, mode: str | None) -> str:
    """Return `mode`, or where it is None the vector's own, or "add".

    Raises:
        ValueError: an unknown mode.
    """
    stated = vector.metadata.get("mode")
    if mode is None:
        if stated is not None and stated not in MODES:
            raise ValueError(
                f"vector {vector.name!r} states mode {stated!r}, which is unknown; give mode=, one "
                f"of {', '.join(MODES)}"
            )
        return "add" if stated is None else str(stated)
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; expected one of {', '.join(MODES)}")
    if stated is not None and stated != mode:
        warn_of_use(vector, f"mode {stated!r}", f"mode {mode!r}", 4)
    return mode


def intended_scope(
    vector: SteeringVector, positions: Positions | None, device: torch.device
) -> Scope | None:
    """Return the scope of `positions`, or where it is None of the vector's own, or of all tokens.

    Raises:
        TypeError, ValueError: as `scope_of`, and where the vector states unknown positions.
    """
    stated = vector.metadata.get("positions")
    own = None if stated is None else _from_text(stated)
    if positions is None:
        if stated is not None and own is None:
            raise ValueError(
                f"vector {vector.name!r} states positions {stated!r}, which are unknown; give "
                f"positions=, or state one of {_NAMES}, or a range such as '-3:'"
            )
        return None if own is None else scope_of(own, device)
    scope = scope_of(positions, device)
    if stated is not None and (own is None or scope_of(own) != scope):
        chosen = as_text(positions) or type(positions).__name__
        warn_of_use(vector, f"positions {stated!r}", f"positions {chosen!r}", 4)
    return scope


def positions_in_texts(vector: SteeringVector) -> Positions | None:
    """Return where to steer whole texts that are measured: "all" for a vector of generated tokens.

    A text that is given has no generated tokens, and nothing would be steered.
    """
    return "all" if vector.metadata.get("positions") == "generated" else None


def as_text(positions: Positions) -> str | None:
    """Return what metadata hold of `positions`: a name, or a range such as "-3:" or "-3:0".

    None for a function, a mask or a marker, which no text can hold.

    Raises:
        TypeError, ValueError: as `scope_of`.
    """
    scope = scope_of(positions)
    for name, named in NAMED.items():
        if named == scope:
            return name
    if not isinstance(scope, Between):
        return None
    text = ":".join("" if end is None else str(end) for end in (scope.start, scope.stop))
    own = _from_text(text)
    return text if own is not None and scope_of(own) == scope else None


def stating(
    vector: SteeringVector, mode: str | None, positions: Positions | None
) -> dict[str, Any]:
    """Return the vector's metadata with this use in them. Raises as `SteeringVector.for_use`."""
    metadata = dict(vector.metadata)
    if mode is not None:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is unknown; expected one of {', '.join(MODES)}")
        metadata["mode"] = mode
    if positions is not None:
        text = as_text(positions)
        if text is None:
            raise ValueError(
                f"positions={positions!r} cannot be written to a file; expected one of {_NAMES}, a "
                "range or a slice"
            )
        metadata["positions"] = text
    return metadata


def require_same_use(one: SteeringVector, other: SteeringVector) -> None:
    """Raise ValueError where a sum would have two uses; warn where it would be of two models."""
    for key, default in (("mode", "add"), ("positions", "all")):
        mine, theirs = (own.metadata.get(key) or default for own in (one, other))
        if mine != theirs:
            raise ValueError(
                f"{one.name!r} states {key} {mine!r} and {other.name!r} {theirs!r}: they cannot be "
                "combined; steer with each"
            )
    models = [own.metadata.get("model") for own in (one, other)]
    if all(models) and models[0] != models[1]:
        warnings.warn(
            f"{one.name!r} was made for {models[0]!r} and {other.name!r} for {models[1]!r}",
            FaststeerWarning,
            stacklevel=4,
        )


def require_addition(vector: SteeringVector, kind: str) -> None:
    """Raise ValueError for a vector that is not to be added; warn of positions that are lost.

    `kind`: a format or package of others, which adds every vector to every token.
    """
    mode = vector.metadata.get("mode")
    if mode not in (None, "add"):
        raise ValueError(
            f"vector {vector.name!r} states mode {mode!r}, and {kind} only adds; save it as "
            ".safetensors, or as vector.for_use(mode='add')"
        )
    positions = vector.metadata.get("positions")
    if positions not in (None, "all"):
        warn_of_use(vector, f"positions {positions!r}", f"{kind}, which steers all tokens", 5)


def warn_of_use(vector: SteeringVector, stated: str, chosen: str, stacklevel: int) -> None:
    """Warn that a vector is used otherwise than it states."""
    warnings.warn(
        f"vector {vector.name!r} states {stated}, but is used with {chosen}",
        FaststeerWarning,
        stacklevel=stacklevel,
    )


def warn_of_other_reading(
    vector: SteeringVector, read_token: str | int, template: str | None, stacklevel: int = 4
) -> None:
    """Warn where texts are read at another token, or in another template, than the vector's were.

    Args:
        vector: states ``read_token`` and ``template``, or does not.
        read_token: as metadata hold it.
        template: of the texts, as `template_digest`; None for plain texts.
        stacklevel: as of `warnings.warn`.
    """
    stated = vector.metadata.get("read_token")
    last = {"last": "-1"}
    mine, theirs = (last.get(str(own), str(own)) for own in (stated, read_token))
    if stated is not None and mine != theirs:
        warn_of_use(vector, f"read_token {stated!r}", f"read_token {read_token!r}", stacklevel)
    warn_of_other_template(vector, template, stacklevel + 1)


def warn_of_other_template(
    vector: SteeringVector, template: str | None, stacklevel: int = 4
) -> None:
    """Warn where texts are in another template than the vector's; as `warn_of_other_reading`."""
    stated = vector.metadata.get("template")
    if stated is not None and stated != template:
        chosen = "plain texts" if template is None else f"template {template!r}"
        warn_of_use(vector, f"chat template {stated!r}", chosen, stacklevel)


def _from_text(text: Any) -> Positions | None:
    """Return the positions that `as_text` wrote; None for anything else."""
    if not isinstance(text, str) or text in NAMED:
        return text if isinstance(text, str) else None
    ends = _RANGE.fullmatch(text)
    if ends is None:
        return None
    start, stop = (None if end is None else int(end) for end in ends.groups())
    if start is None or stop is None or (start >= 0 > stop) or (start < 0 < stop):
        return slice(start, stop)
    # -3:0 is up to the prompt's end, which a slice cannot state
    return range(start, stop) if start < stop else None
