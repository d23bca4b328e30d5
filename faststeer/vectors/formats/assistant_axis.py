"""The capping_config.pt of assistant-axis, with which it caps activations.

A dict: ``vectors``, name -> {``layer``, ``vector`` ``[H]``}, and ``experiments``, a list of
{``id``, ``interventions``}; an intervention is {``vector``: a name, ``cap``: a number}. Layers are
0-based blocks, whose output is capped at every token: layer L at ``resid_post``. The vector is
taken at norm 1, and a projection on it that exceeds the cap is set to the cap: a ceiling. A floor
on an axis is in such a file a ceiling on the opposite direction. Interventions of an experiment
without a cap are not part of its capping. (assistant_axis/steering.py, a989619; Lu et al. 2026,
arXiv 2601.10387.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststeer.vectors.bounds import bounds_by_layer, bounds_to_json
from faststeer.vectors.formats.pt_file import checked_tensor
from faststeer.vectors.formats.vector_data import VectorData

_KEYS = {"vectors", "experiments"}
_MOST_SHOWN = 8  # experiments that a message names


def holds_caps(content: Mapping[Any, Any]) -> bool:
    """Return whether a .pt file's dict is a capping configuration."""
    return content.keys() >= _KEYS


def decode(file: Path, content: Mapping[Any, Any], experiment: str | None) -> VectorData:
    """Return the vector of one experiment, which states mode "cap", its layers and their ceilings.

    Args:
        file: that held it.
        content: as `holds_caps` accepts it.
        experiment: its id; it may be left out where the file has one.

    Raises:
        ValueError: no such experiment, or one that caps nothing, or two directions of one layer;
            or entries of another form.
    """
    vectors, chosen = content["vectors"], _experiment(content["experiments"], experiment)
    if not isinstance(vectors, Mapping):
        raise ValueError(f"vectors is a {type(vectors).__name__}; expected a dict of names")
    name, interventions = str(chosen["id"]), chosen.get("interventions")
    if not isinstance(interventions, Sequence) or isinstance(interventions, str):
        raise ValueError(f"experiment {name!r} has no list of interventions")
    directions: dict[int, Tensor] = {}
    ceiling: dict[int, float] = {}
    size = 0
    for own in interventions:
        if not isinstance(own, Mapping):
            raise ValueError(f"experiment {name!r}: an intervention is a {type(own).__name__}")
        if "cap" not in own:
            continue
        capped = own.get("vector")
        entry = vectors.get(capped) if isinstance(capped, str) else None
        if not isinstance(entry, Mapping) or type(entry.get("layer")) is not int:
            raise ValueError(
                f"experiment {name!r}: vector {str(capped)[:60]!r} is not in the file, "
                "or has no layer"
            )
        layer = entry["layer"]
        if layer in directions:
            raise ValueError(
                f"experiment {name!r} caps two directions at layer {layer}, and a vector has one: "
                "make a SteeringVector of each, and cap with both"
            )
        direction = checked_tensor(file, entry.get("vector"), 1)
        size += direction.numel() * direction.element_size()
        if size > file.stat().st_size:  # tensors may overlap
            raise ValueError("its tensors are larger than the file")
        directions[layer] = direction.to(torch.float32, copy=True)
        ceiling[layer] = _cap(own["cap"], name)
    if not directions:
        raise ValueError(f"experiment {name!r} caps nothing")
    try:
        bounds_by_layer(None, ceiling, directions)
    except TypeError as error:
        raise ValueError(f"experiment {name!r}: {error}") from None
    stated = {
        "mode": "cap",
        "ceiling": bounds_to_json(dict(sorted(ceiling.items()))),
        "layers": sorted(directions),
    }
    return VectorData(name, directions, "resid_post", stated)


def _cap(value: Any, experiment: str) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"experiment {experiment!r}: a cap is a {type(value).__name__}; expected a number"
        )
    return float(value)


def _experiment(experiments: Any, wanted: str | None) -> Mapping[str, Any]:
    if not isinstance(experiments, Sequence) or not all(
        isinstance(own, Mapping) and isinstance(own.get("id"), str) for own in experiments
    ):
        raise ValueError("experiments is not a list of dicts with an id")
    found = [own for own in experiments if wanted is None or own["id"] == wanted]
    if len(found) == 1:
        return dict(found[0])
    ids = [own["id"] for own in experiments]
    shown = ", ".join(ids[:_MOST_SHOWN]) + (", ..." if len(ids) > _MOST_SHOWN else "")
    which = "several experiments" if wanted is None else f"no experiment {wanted!r}"
    if found and wanted is not None:
        which = f"several experiments {wanted!r}"
    raise ValueError(f"has {which}; give experiment=, one of: {shown or 'none'}")
