"""Bake constant steering into weights: any engine that runs the checkpoint runs it steered.

An addition becomes the bias of the projection that writes there; an ablated direction is removed
from every weight that writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from faststeer.models.stream_writers import embedding_scale
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.patching.bake_checks import require_ablatable, require_bakeable, unit_direction
from faststeer.patching.weight_edits import Edits, InPlace
from faststeer.steering.resolved_use import resolve_coefficient, resolve_layers
from faststeer.utils.version import VERSION
from faststeer.vectors.arguments import Layers, finite, layer_factors, require_fitting
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.sites import Site
from faststeer.vectors.stated_use import warn_of_other_use
from faststeer.vectors.steering_vector import SteeringVector

Model = TypeVar("Model", bound=nn.Module)

MODES = ("add", "ablate")
_CONSTANT = "a checkpoint holds constant steering only, the same for every row, position and text"
_FLAGS = {"resid_mid": "attention_bias", "resid_post": "mlp_bias"}  # of the bias at a site


def bake(
    model: Model,
    vector: SteeringVector,
    coefficient: float | None = None,
    layers: Layers = None,
    *,
    mode: str | None = None,
    **varying: NoReturn,
) -> Model:
    """Write steering into the weights of `model`, in place: a plain model that saves as any other.

    ``mode="add"`` does permanently what ``patch(model).steer(vector, coefficient, layers=layers)``
    does while patched. At ``resid_post`` the bias of ``down_proj`` takes the vector and the
    config gets ``mlp_bias=True``, at ``resid_mid`` that of ``o_proj`` and ``attention_bias=True``;
    the flag's other biases are zeros. At ``resid_pre`` of layer 0 every row of the embedding takes
    it; ``inputs_embeds`` that a caller passes do not. Each call rounds to the weights' dtype, so in
    bfloat16 add vectors up before baking them.

    ``mode="ablate"`` takes one layer's direction d out of everything that is written into the
    residual stream, ``W - coefficient * d d^T W`` with d of norm 1, for the embedding, every
    ``o_proj`` and ``down_proj`` and their biases (Arditi et al. 2024, Refusal in Language Models Is
    Mediated by a Single Direction, section 4.1). At the default 1.0 that equals a projection at
    every site, whatever the vector's; other values scale what is written. It needs no biases.

    A tied embedding that changes is untied: ``lm_head`` keeps the old one as a copy, and the config
    gets ``tie_word_embeddings=False``. ``config.faststeer_baked`` lists what was baked, and is
    saved along.

    What a family can take depends on the biases of its configuration, whatever it is loaded with:

    - LLaMA and SmolLM3: additions at every site, and ablations.
    - Qwen3, Qwen3-MoE and Gemma 1: no additions at ``resid_post``, for want of an ``mlp_bias``.
    - Mistral, Mixtral, Qwen2 and Phi-3: additions to the embedding alone, and ablations.
    - Gemma 2 and 3: additions to the embedding alone. A norm follows all else that is written.

    An engine has to read the config's flags. transformers, vLLM and llama.cpp have biases in LLaMA;
    an engine without those of the MLP, as SGLang was in 2025, may silently drop them: bake at
    ``resid_mid`` for it, or ablate.

    Args:
        model: a causal model of one of these families, with plain weights. Its weights and config
            are changed; ``copy.deepcopy`` it first to keep the original.
        vector: directions ``[H]``, one per layer.
        coefficient: the factor on the direction; for ``ablate`` the fraction taken out. Default:
            what the vector states, or else 1.0.
        layers: as `Patched.steer` takes them; for ``ablate`` the layer whose direction it is.
        mode: ``add`` or ``ablate``; by default what the vector states, or else ``add``.
        varying: nothing; other keywords are refused.

    Returns:
        `model` itself.

    Raises:
        TypeError: not a module or SteeringVector, a coefficient that is not a number, or steering
            that varies.
        ValueError: a model that cannot be baked into, or not at that site, with the reason; a
            vector of another hidden size, or one that states a mode which no weights have; a layer
            that the model or the vector lacks, several layers or a zero direction to ablate, a
            value that is not finite in the weights' dtype. Nothing has changed then.
    """
    if "layer" in varying:
        refuse_unknown("bake", varying, "layers")
    if varying:
        raise TypeError(f"bake() takes no {', '.join(varying)}: {_CONSTANT}")
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; expected one of {', '.join(MODES)}")
    writers = require_bakeable(model)
    causal: Any = model
    require_fitting(vector, causal.config.hidden_size, "bake")
    mode = _intended_mode(vector, mode)
    coefficient = resolve_coefficient(vector, coefficient)
    try:
        coefficient = finite(coefficient, f"coefficient of {vector.name!r}")
    except TypeError as error:
        raise TypeError(f"{error}: {_CONSTANT}") from error
    factors = layer_factors(vector, resolve_layers(vector, layers), len(causal.model.layers))
    by_layer = {layer: coefficient * factor for layer, factor in factors.items()}
    edits = Edits(causal, writers)
    (_add if mode == "add" else _ablate)(edits, vector, by_layer)
    edits.require_finite()
    warn_of_other_model(vector, causal.model)
    edits.make()
    baked = {
        "vector": vector.name,
        "mode": mode,
        "site": vector.site,
        "layers": {str(layer): own for layer, own in by_layer.items()},
        "faststeer": VERSION,
    }
    causal.config.faststeer_baked = [*getattr(causal.config, "faststeer_baked", []), baked]
    return model


def _intended_mode(vector: SteeringVector, mode: str | None) -> str:
    stated = vector.metadata.get("mode")
    if mode is None and stated not in (None, "add"):
        raise ValueError(
            f"vector {vector.name!r} states mode {stated!r} at {vector.site}, which weights cannot "
            "do; mode='ablate' takes a direction out everywhere, mode='add' adds it"
        )
    mode = "add" if mode is None else mode
    if stated not in (None, {"add": "add", "ablate": "project"}[mode]):
        warn_of_other_use(vector, f"mode {stated!r}", f"mode {mode!r}", 4)
    positions = vector.metadata.get("positions")
    if positions not in (None, "all"):
        warn_of_other_use(vector, f"positions {positions!r}", "all tokens: it is constant", 4)
    return mode


def _add(edits: Edits, vector: SteeringVector, by_layer: Mapping[int, float]) -> None:
    for layer, coefficient in by_layer.items():
        addend = vector.directions[layer].double() * coefficient
        site = Site.of(layer, vector.site)
        if site.kind == "resid_pre":
            edits.embedding(_adding(addend / embedding_scale(edits.model)))
        else:
            flag = _FLAGS[site.kind]
            _require_bias(edits, site.kind, flag)
            edits.bias(site.layer, edits.writers.of_flag(flag)[-1], _adding(addend), flag)


def _require_bias(edits: Edits, kind: str, flag: str) -> None:
    """Raise ValueError where no bias of the model adds to the stream at a site of that kind."""
    model = edits.model
    if edits.writers.normed:
        reason = "a norm without a bias stands before that site"
    elif flag not in edits.writers.flags:
        reason = (
            f"its {type(model.config).__name__} has no {flag}, so a bias would be lost on loading"
        )
    else:
        return
    raise ValueError(
        f"a {type(model).__name__} takes no addition at {kind}: {reason}; patch it instead"
    )


def _adding(addend: Tensor) -> InPlace:
    return lambda rows: rows.add_(addend)


def _ablate(edits: Edits, vector: SteeringVector, by_layer: Mapping[int, float]) -> None:
    if len(by_layer) != 1:
        raise ValueError(
            "ablation takes one direction out everywhere: give the one layer, of "
            f"{list(by_layer)}, whose direction that is"
        )
    ((layer, fraction),) = by_layer.items()
    require_ablatable(edits.writers, edits.model)
    direction = unit_direction(vector, layer)

    def without(rows: Tensor) -> Tensor:
        return rows.addr_(rows @ direction, direction, alpha=-fraction)

    edits.embedding(without)
    for index in range(len(edits.model.model.layers)):
        edits.writing(index, without)
