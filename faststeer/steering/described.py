"""What an active vector does, in words: for `repr` and notebooks."""

from __future__ import annotations

from collections.abc import Mapping

from faststeer.steering.intervention import Cap, Coefficients, Intervention, RowBounds
from faststeer.vectors.bounds import as_bounds, bounds_text
from faststeer.vectors.layer_text import layers_text


def facts_of(one: Intervention) -> dict[str, object]:
    """Return what `repr` and notebooks show of an intervention, in this order."""
    facts: dict[str, object] = {"mode": one.mode, "coefficient": one.coefficient}
    bounds = dict(zip(("floor", "ceiling"), as_bounds(one.bounds), strict=True))
    facts |= {name: bound for name, bound in bounds.items() if bound is not None}
    facts["layers"] = layers_text(one.factors).partition(" ")[2]
    if len(set(one.factors.values())) > 1 or 1.0 not in one.factors.values():
        facts["factors"] = dict(one.factors)
    facts["site"] = " and ".join(one.kinds) if one.kinds else one.vector.site
    facts["positions"] = "all" if one.scope is None else str(one.scope)
    if one.keep_norm:
        facts["keep_norm"] = True
    if one.when is not None:
        facts["when"] = one.when.in_words
    return facts


def strength_text(one: Intervention) -> str:
    """Return the coefficient, or the bounds of a cap: "+2", "ceiling 3"."""
    return bounds_text(one.bounds) if one.bounds else f"{one.coefficient:+.3g}"


def part_in_words(one: Intervention, given: float | Coefficients | RowBounds) -> str:
    """Return what a row gives of it as text: "+2 at layer 15", "ceiling 3 at layer 15"."""
    strengths = one.strengths(given)
    if one.mode == "cap":
        caps = {layer: own.bounds for layer, own in strengths.items() if isinstance(own, Cap)}
        return f"{bounds_text(caps)} at {layers_text(caps)}"
    values = strengths.values() if isinstance(given, Mapping) else [given]
    return f"{', '.join(f'{value:+.3g}' for value in values)} at {layers_text(strengths)}"


def in_one_line(one: Intervention) -> str:
    """Return the same as text: "add 2 at layers 0–29 (resid_post), positions all"."""
    facts = facts_of(one)
    place = f"{layers_text(one.factors)} ({facts['site']})"
    more = [f"{name} {facts[name]}" for name in ("factors", "positions", "when") if name in facts]
    if one.keep_norm:
        more.append("keep_norm")
    how = f"{one.mode} {one.coefficient:g}"
    if one.bounds:
        how += f" ({bounds_text(one.bounds)})"
    return ", ".join([f"{how} at {place}", *more])
