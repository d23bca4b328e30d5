"""Model families with fused layers: a line below and a file each, named as in transformers."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from faststeer.models.family import Family

# A new family is one line here, and a file of that name beside this one. By the folder in
# transformers and not by class, so that only the families in use are imported.
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
    f"transformers.models.{name}.modeling_{name}.{decoder}": f"faststeer.models.families.{name}"
    for name, decoder in _DECODERS.items()
}


def family_of(module: nn.Module) -> Family | None:
    """Return the family whose decoder `module` is, or None."""
    for base in type(module).__mro__:
        name = _FAMILIES.get(f"{base.__module__}.{base.__qualname__}")
        if name is not None:
            family: Family = import_module(name).FAMILY
            return family
    return None


def known_families() -> list[str]:
    """Return the names of the decoder classes that have a family."""
    return list(_DECODERS.values())
