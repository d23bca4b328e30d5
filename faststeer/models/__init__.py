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
    input_norm: str = "input_layernorm"
    mid_norm: str = "post_attention_layernorm"
    layers: str = "layers"
    final_norm: str = "norm"


# By name, so that a family's code is imported only when such a model is there.
_FAMILIES = {
    f"transformers.models.{name.lower()}.modeling_{name.lower()}.{name}Model": (
        f"faststeer.models.{name.lower()}"
    )
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Phi3", "Mixtral")
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
    return [name.rsplit(".", 1)[1] for name in _FAMILIES]
