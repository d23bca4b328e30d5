"""Check that a model's weights can be baked into; others are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from faststeer.models.patch_mark import MARK

# The flag of the config, and whose biases it stands for: with it all of them exist.
BIASED = {
    "attention_bias": tuple(f"self_attn.{one}_proj" for one in "qkvo"),
    "mlp_bias": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
_MODEL = "transformers.models.llama.modeling_llama.LlamaForCausalLM"  # by name: not imported here
_LINEAR_SIZES = ("out_features", "in_features")
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def require_bakeable(model: Any) -> None:
    """Raise where steering cannot be written into `model`'s weights, or would not be saved.

    Raises:
        TypeError: not a module.
        ValueError: another class than LlamaForCausalLM; patched; sharded, quantised, shared or
            offloaded weights; adapters that are not merged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"bake() got a {type(model).__name__}; expected a LlamaForCausalLM")
    if f"{type(model).__module__}.{type(model).__qualname__}" != _MODEL:
        raise ValueError(
            f"{type(model).__name__} cannot be baked into, only a LlamaForCausalLM: "
            f"{_why_not(model)}"
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
    for name, module, stock in _parts(model):
        _require_plain(name, module, stock)
        other = owner.setdefault(module.weight.data_ptr(), name)
        if other != name and name != "lm_head":
            raise ValueError(
                f"{other} and {name} share their weights: baked into one, it would be in both"
            )


def _why_not(model: nn.Module) -> str:
    if hasattr(model, "peft_config"):
        return "merge its adapters first, model = model.merge_and_unload()"
    config = getattr(model, "config", None)
    missing = [flag for flag in BIASED if not hasattr(config, flag)]
    if missing:
        return (
            f"its {type(config).__name__} has no {' and no '.join(missing)}, "
            "so a bias would be lost on loading"
        )
    return "what its other code does with the weights is not known"


def _parts(model: Any) -> Iterator[tuple[str, Any, type[nn.Module]]]:
    """Yield every module with a weight other than the norms, with its name and stock class."""
    yield "model.embed_tokens", model.model.embed_tokens, nn.Embedding
    for index, layer in enumerate(model.model.layers):
        for projection in (*BIASED["attention_bias"], *BIASED["mlp_bias"]):
            yield f"model.layers.{index}.{projection}", layer.get_submodule(projection), nn.Linear
    yield "lm_head", model.lm_head, nn.Linear  # last: it may be the embedding's


def _require_plain(name: str, module: Any, stock: type[nn.Module]) -> None:
    if type(module) is not stock:
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
    if type(parameter) is not nn.Parameter:
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
