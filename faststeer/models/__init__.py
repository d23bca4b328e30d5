"""What differs between model families: the classes that take the stock ones' place."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from torch import nn


@dataclass(frozen=True)
class Family:
    """Stock classes of a family and what they become while patched."""

    decoder: type[nn.Module]
    layer: type[nn.Module]
    norm: type[nn.Module]
    steered_layer: type[nn.Module]
    steered_norm: type[nn.Module]
    mid_norm: str  # what reads the residual after attention
    epsilon: str  # the norms' attribute
    weight_offset: float  # a norm multiplies by this and its weight
    attention: str = "self_attn"
    input_norm: str = "input_layernorm"
    layers: str = "layers"
    final_norm: str = "norm"


# By transformers' folder, which is our file too. By name, so that a family's code is imported only
# when such a model is there.
_DECODERS = {
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "smollm3": "SmolLM3Model",
    "phi3": "Phi3Model",
    "mixtral": "MixtralModel",
    "qwen3_moe": "Qwen3MoeModel",
    "gemma": "GemmaModel",
    "gemma2": "Gemma2Model",
    "gemma3": "Gemma3TextModel",
}
_FAMILIES = {
    f"transformers.models.{folder}.modeling_{folder}.{decoder}": f"faststeer.models.{folder}"
    for folder, decoder in _DECODERS.items()
}


def family_of(module: nn.Module) -> Family | None:
    """The family whose decoder `module` is, or None."""
    for base in type(module).__mro__:
        name = _FAMILIES.get(f"{base.__module__}.{base.__qualname__}")
        if name is not None:
            family: Family = import_module(name).FAMILY
            return family
    return None


def known_families() -> list[str]:
    """The decoder classes that can be patched."""
    return list(_DECODERS.values())
