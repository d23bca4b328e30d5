"""Check that a model's weights can be baked into; others are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from faststeer.models.patch_mark import MARK
from faststeer.models.stream_writers import StreamWriters, known_causal_models, stream_writers
from faststeer.vectors.steering_vector import SteeringVector

_LINEAR_SIZES = ("out_features", "in_features")
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def require_bakeable(model: Any, caller: str = "bake") -> StreamWriters:
    """Return what writes into `model`'s stream; raise where its weights are not plain and known.

    Args:
        model: a causal model.
        caller: the function that messages name.

    Raises:
        TypeError: not a module.
        ValueError: a class that is not known; patched; sharded, quantised, shared or offloaded
            weights; adapters that are not merged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller}() got a {type(model).__name__}; expected a LlamaForCausalLM")
    writers = stream_writers(model)
    if writers is None:
        raise ValueError(
            f"{caller}() does not know the weights of a {type(model).__name__}: {_why_not(model)}; "
            f"expected one of {known_causal_models()}"
        )
    model = cast(Any, model)
    if MARK in model.model.__dict__:
        raise ValueError(
            "the model is patched, and its active vectors are not in its weights: unpatch it first"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("the model has adapters, and would be saved as these alone: merge them")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError(
            "the model was loaded as quantised, and so it would be saved: load the unquantised one"
        )
    if getattr(model, "tp_size", None) is not None:
        raise ValueError(f"the weights are sharded over {model.tp_size} devices: load them whole")
    owner: dict[int, str] = {}
    for name, module, stock in _parts(model, writers):
        _require_plain(name, module, stock)
        other = owner.setdefault(module.weight.data_ptr(), name)
        if other != name and name != "lm_head":
            raise ValueError(
                f"{other} and {name} share their weights: baked into one, it would be in both"
            )
    for index, layer in enumerate(model.model.layers):
        for path, weight in writers.weights(layer):
            size = weight.shape[-1:] if isinstance(weight, Tensor) else ()
            _require_whole(
                f"model.layers.{index}.{path}", weight, (model.config.hidden_size, *size)
            )
    return writers


def require_ablatable(writers: StreamWriters, model: nn.Module) -> None:
    """Raise ValueError where no change of the weights takes a direction out of the stream."""
    if writers.normed:
        raise ValueError(
            f"in a {type(model).__name__} a norm follows what attention and the MLP write, so no "
            "change of their weights takes a direction out of the residual stream: patch it, and "
            "use Patched.ablate"
        )


def unit_direction(vector: SteeringVector, layer: int) -> Tensor:
    """Return the direction of a layer at norm 1, float64. Raises ValueError where it is zero."""
    direction: Tensor = vector.directions[layer].double()
    if not direction.any():
        raise ValueError(
            f"vector {vector.name!r}, layer {layer}: the direction is zero; there is none to ablate"
        )
    unit: Tensor = direction / direction.norm()
    return unit


def _why_not(model: nn.Module) -> str:
    if hasattr(model, "peft_config"):
        return "merge its adapters first, model = model.merge_and_unload()"
    return "which of them write into the residual stream is not known"


def _parts(model: Any, writers: StreamWriters) -> Iterator[tuple[str, Any, type[nn.Module]]]:
    """Yield every module with a weight, other than norms and experts in one tensor.

    With its name and stock class.
    """
    yield "model.embed_tokens", model.model.embed_tokens, nn.Embedding
    for index, layer in enumerate(model.model.layers):
        for path in writers.projections(layer):
            yield f"model.layers.{index}.{path}", layer.get_submodule(path), nn.Linear
    yield "lm_head", model.lm_head, nn.Linear  # last: it may be the embedding's


def _require_plain(name: str, module: Any, stock: type[nn.Module]) -> None:
    # Gemma's embedding is a class of its own, which multiplies what it looks up.
    scaled = stock is nn.Embedding and type(module).__name__.endswith("TextScaledWordEmbedding")
    if type(module) is not stock and not scaled:
        raise ValueError(
            f"{name} is a {type(module).__module__}.{type(module).__qualname__}, not a stock "
            f"{stock.__name__}: merge adapters first, and load quantised weights unquantised"
        )
    sizes = ("num_embeddings", "embedding_dim") if stock is nn.Embedding else _LINEAR_SIZES
    shape = tuple(getattr(module, size) for size in sizes)
    _require_whole(f"{name}.weight", module._parameters.get("weight"), shape)
    if module._parameters.get("bias") is not None:
        _require_whole(f"{name}.bias", module.bias, shape[:1])


def _require_whole(name: str, parameter: Any, shape: tuple[int, ...]) -> None:
    if type(parameter) is not nn.Parameter and type(parameter) is not Tensor:
        raise ValueError(
            f"{name} is a {type(parameter).__name__}, not a plain Parameter: gather sharded "
            "weights first, and load quantised ones unquantised"
        )
    if parameter.is_meta:
        raise ValueError(f"{name} is not in memory (offloaded, or never loaded): load it whole")
    if parameter.dtype not in _DTYPES:
        raise ValueError(f"{name} is quantised to {parameter.dtype}: load the unquantised weights")
    if tuple(parameter.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(parameter.shape)} where its module has {shape}: "
            "gather sharded or packed weights first"
        )
