"""What an active vector does, in words: for `repr` and notebooks."""

from __future__ import annotations

from faststeer.steering.intervention import Intervention
from faststeer.steering.markers import After
from faststeer.vectors.layer_text import layers_text


def facts_of(one: Intervention) -> dict[str, object]:
    """Return what `repr` and notebooks show of an intervention, in this order."""
    facts: dict[str, object] = {"mode": one.mode, "coefficient": one.coefficient}
    facts["layers"] = layers_text(one.factors).partition(" ")[2]
    if len(set(one.factors.values())) > 1 or 1.0 not in one.factors.values():
        facts["factors"] = dict(one.factors)
    facts["site"] = " and ".join(one.kinds) if one.kinds else one.vector.site
    after = "after " if isinstance(one.scope, After) else ""
    facts["positions"] = "all" if one.scope is None else f"{after}{one.scope}"
    if one.keep_norm:
        facts["keep_norm"] = True
    if one.when is not None:
        facts["when"] = one.when.in_words
    return facts


def in_one_line(one: Intervention) -> str:
    """Return the same as text: "add 2 at layers 0–29 (resid_post), positions all"."""
    facts = facts_of(one)
    place = f"{layers_text(one.factors)} ({facts['site']})"
    more = [f"{name} {facts[name]}" for name in ("factors", "positions", "when") if name in facts]
    if one.keep_norm:
        more.append("keep_norm")
    return ", ".join([f"{one.mode} {one.coefficient:g} at {place}", *more])
