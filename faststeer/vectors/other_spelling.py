"""`layers=` is one or several layers, `layer=` exactly one: the other spelling gets a hint."""

from __future__ import annotations

from collections.abc import Iterable


def refuse_unknown(function: str, unknown: Iterable[str], known: str) -> None:
    """Raise TypeError for keywords that a function does not have; name the one that is meant.

    Args:
        function: its name.
        unknown: the keywords that it got.
        known: the spelling that it has, "layers" or "layer".
    """
    for keyword in unknown:
        near = keyword in ("layer", "layers")
        hint = f"; did you mean {known}=?" if near else ""
        raise TypeError(f"{function}() got an unexpected keyword argument {keyword!r}{hint}")
