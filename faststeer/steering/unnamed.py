"""The name of a vector that is steered without `name=`, and what it replaces.

Repeating a call replaces, so that a cell of a notebook can be run again; the same vector at other
layers is one more vector.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from itertools import count

import torch

from faststeer.steering.intervention import Intervention
from faststeer.steering.learned import Learned
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.layer_text import layers_text
from faststeer.vectors.sites import Site


def name_for(vector: str, sites: set[Site], active: Mapping[str, tuple[str, set[Site]]]) -> str:
    """Return the handle's name for a vector that acts at `sites`: its own, or "v-2", ...

    A handle of this vector that acts at some of the sites gives its name, and is so replaced.

    Args:
        vector: the vector's name.
        sites: where it is to act.
        active: handle's name -> its vector's name, and where that acts.

    Raises:
        ValueError: several handles of this vector act there.
    """
    numbered = re.compile(re.escape(vector) + "-[0-9]+")
    overlapping = [
        name
        for name, (own, theirs) in active.items()
        if theirs & sites and (name == vector or (own == vector and numbered.fullmatch(name)))
    ]
    if len(overlapping) > 1:
        raise ValueError(
            f"{vector!r} steers some of these layers already, as {' and '.join(overlapping)}: "
            "give name= of the one to replace or a new one, or remove() them"
        )
    if overlapping:
        return overlapping[0]
    names = (vector if number == 1 else f"{vector}-{number}" for number in count(1))
    return next(name for name in names if name not in active)


def warn_of_replacing(
    name: str, before: Intervention | Learned, now: Intervention, stacklevel: int
) -> None:
    """Warn where a vector without a name replaces one that differs in more than its strength."""
    if isinstance(before, Learned):
        layers, alike = [*map(int, before.directions)], before.sites == now.sites()
    else:
        layers, alike = [*before.factors], _alike(before, now)
    if not alike:
        warnings.warn(
            f"{name!r} at {layers_text(now.factors)} replaces {name!r} at {layers_text(layers)}, "
            "which no longer steers: to steer with both, give one of them another name=",
            FaststeerWarning,
            stacklevel=stacklevel,
        )


def _alike(one: Intervention, other: Intervention) -> bool:
    settings = [
        (own.sites(), own.scope, own.mode, own.keep_norm, own.when, own.vector.site)
        for own in (one, other)
    ]
    mine, theirs = one.vector.directions, other.vector.directions
    return settings[0] == settings[1] and all(
        torch.equal(mine[layer], theirs[layer]) for layer in one.factors
    )
