"""Vectors of other packages, as objects: steering-vectors and repeng.

**steering-vectors**, `SteeringVector(layer_activations, layer_type)`: multiplier times activation
is added to the output of a module of 0-based block L, chosen by `layer_type`. The output of
"decoder_block" is ``resid_post`` of layer L. The outputs of "self_attn" and "mlp" are added to the
residual stream unchanged, so adding to them is adding at ``resid_mid`` and ``resid_post``. Norms
have no place in the stream. (steering_vectors/steering_vector.py and layer_matching.py, 0.12.)

**repeng**, `ControlVector(model_type, directions)`: coefficient times direction is added to the
output of 0-based block L, ``resid_post``. (repeng/extract.py and control.py, 0.4.)

Other packages' objects look like repeng's: IBM's activation-steering adds at block L's input
(see `svec.py`), EasySteer's names a component of the model, AISteer360's has rows of a
meaning that it does not state.

All of them point to the positive texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from faststeer.vectors.formats.gguf_keys import model_hint
from faststeer.vectors.formats.vector_data import VectorData, block_outputs
from faststeer.vectors.stated_use import require_addition

PACKAGES = ("steering-vectors", "repeng")

_SITES = {"decoder_block": "resid_post", "self_attn": "resid_mid", "mlp": "resid_post"}


def from_object(source: Any, name: str) -> VectorData:
    """Return the content of either package's vector, recognised by its attributes.

    Neither package has to be installed.

    Raises:
        TypeError: `source` is neither.
        ValueError: a layer type or component without a place in the residual stream, or an object
            of AISteer360.
    """
    if hasattr(source, "layer_activations"):
        kind = getattr(source, "layer_type", None)
        if kind not in _SITES:
            raise ValueError(
                f"layer_type {kind!r} is no place of the residual stream; expected one of "
                f"{', '.join(_SITES)}"
            )
        activations = {n: _row(n, tensor) for n, tensor in source.layer_activations.items()}
        return VectorData(name, activations, _SITES[kind], {})
    if hasattr(source, "directions") and hasattr(source, "model_type"):
        site = _site_of_directions(source)
        directions = {n: torch.tensor(np.asarray(d)) for n, d in source.directions.items()}
        return VectorData(name, directions, site, {"model_type": source.model_type})
    raise TypeError(
        f"got a {type(source).__name__}; expected steering-vectors' SteeringVector or repeng's "
        "ControlVector"
    )


def to_object(vector: VectorData, package: str) -> Any:
    """Return a copy of `vector` for "steering-vectors" or "repeng", which has to be installed.

    Raises:
        ValueError: another package, or a site that it has no place for.
        ModuleNotFoundError: the package is missing.
    """
    if package == "steering-vectors":
        import steering_vectors

        if vector.site == "resid_mid":
            require_addition(vector, package, stacklevel=4)
            copies = {layer: d.clone() for layer, d in vector.directions.items()}
            return steering_vectors.SteeringVector(copies, "self_attn")
        outputs = block_outputs(vector, package, stacklevel=4)
        return steering_vectors.SteeringVector({n: d.clone() for n, d in outputs.items()})
    if package == "repeng":
        import repeng

        outputs = block_outputs(vector, package, stacklevel=4)
        arrays = {layer: d.numpy().copy() for layer, d in outputs.items()}
        return repeng.ControlVector(model_type=model_hint(vector.metadata), directions=arrays)
    raise ValueError(f"package {package!r} is unknown; expected one of {', '.join(PACKAGES)}")


def _row(layer: int, activation: torch.Tensor) -> torch.Tensor:
    """Return ``[1, ..., H]`` as ``[H]``. Raises ValueError for several rows."""
    if activation.dim() and activation.numel() != activation.shape[-1]:
        raise ValueError(
            f"layer {layer}: shape {tuple(activation.shape)} has several rows; expected one [H]"
        )
    return activation.reshape(-1)


def _site_of_directions(source: Any) -> str:
    """Return the site at which an object that looks like repeng's adds its directions."""
    if hasattr(source, "num_heads"):
        raise ValueError(
            "an AISteer360 vector does not state where its rows are added; make a "
            "SteeringVector(name, {layer: row}, site) of the rows that you mean"
        )
    component = getattr(source, "component", None)
    if component not in (None, "hidden_states"):
        raise ValueError(f"component {component!r} is not the residual stream")
    return "resid_pre" if hasattr(source, "explained_variances") else "resid_post"
