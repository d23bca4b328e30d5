"""Build a tiny random model of a class from its recipe."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from every_model.recipes import HEADS, LAYER_COUNTS, LAYERS, RECIPES, SIZES, Recipe

LARGEST = 5_000_000  # parameters; more means that the recipe has left a size at its default


class Unbuilt(Exception):
    """Raised, with the reason, for a class of which no model can be built."""


def mapping() -> dict[str, str]:
    """Return {class name: the model type under which transformers lists it first}."""
    found: dict[str, str] = {}
    for model_type, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        for name in (names,) if isinstance(names, str) else names:
            found.setdefault(name, model_type)
    return found


def model_types(name: str) -> list[str]:
    """Return all model types under which transformers lists a class."""
    return [
        model_type
        for model_type, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if name in ((names,) if isinstance(names, str) else names)
    ]


def build(name: str, model_type: str) -> Any:
    """Return a model of class `name` with reproducible random weights, in float32 and eval mode.

    Raises:
        Unbuilt: it cannot be built.
    """
    import transformers

    recipe = RECIPES.get(name, Recipe())
    if recipe.unbuilt is not None:
        raise Unbuilt(recipe.unbuilt)
    kind = getattr(transformers, name)
    chosen = [recipe.config] if recipe.older is None else [recipe.config, recipe.older]
    model, failure = None, ""
    for facts in chosen:
        try:
            model = _built(kind, model_type, facts)
            break
        except Exception as error:  # any error of the class is the reason why it is not built
            failure = failure or f"{type(error).__name__}: {error}"
    if model is None:
        raise Unbuilt(failure)
    _randomize(model)
    return model.eval()


def _built(kind: Any, model_type: str, facts: dict[str, Any]) -> Any:
    config = _config(kind, model_type, facts)
    _require_tiny(kind, config)
    torch.manual_seed(0)
    return kind(config)


def _config(kind: Any, model_type: str, facts: dict[str, Any]) -> Any:
    config_kind = kind.config_class or CONFIG_MAPPING[model_type]
    config = config_kind(**_sized(config_kind, facts))
    if hasattr(config, "use_cache"):
        config.use_cache = True
    return config


def _sized(
    kind: Any, own: dict[str, Any], other: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return arguments for a configuration of `kind`: known sizes, its parts' sizes, and `own`.

    `other`: sizes that replace the usual ones.
    """
    known = set(inspect.signature(kind.__init__).parameters)
    for base in kind.__mro__:
        known |= set(getattr(base, "__annotations__", {}))
    facts = {name: size for name, size in (SIZES | other).items() if name in known} | own
    if "kv_lora_rank" in known:  # latent attention has no groups
        facts["num_key_value_heads"] = own.get("num_key_value_heads", HEADS)
    for part, stated in getattr(kind, "sub_configs", {}).items():
        given = own.get(part, {})
        if given is None:  # the model does without
            continue
        part_kind = CONFIG_MAPPING[given["model_type"]] if "model_type" in given else stated
        if part_kind.__name__ != "AutoConfig":
            # Encoders beside the text model have their own number of layers.
            fewer = {} if part.startswith("text") else dict.fromkeys(LAYER_COUNTS, LAYERS // 2)
            facts[part] = _sized(part_kind, given, fewer)
    return facts


def _require_tiny(kind: Any, config: Any) -> None:
    try:
        with torch.device("meta"):
            shape = kind(config)
    except NotImplementedError:
        # Its constructor computes weights from each other, which `meta` cannot; the process that
        # builds it for real has a limit on its memory, so too large a model still fails in words.
        return
    count = sum(parameter.numel() for parameter in shape.parameters())
    if count > LARGEST:
        large = max(shape.named_parameters(), key=lambda named: named[1].numel())
        raise ValueError(f"{count:,} parameters, of {large[0]} {tuple(large[1].shape)}")


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    """Randomise weights initialised to ones, zeros or tiny values, which would hide mistakes."""
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        low, high = float(parameter.min()), float(parameter.max())
        if low == high == 1:
            parameter.uniform_(0.5, 1.5, generator=draw)
        elif low == high == 0 or not (abs(low) < 1e3 and abs(high) < 1e3):
            parameter.normal_(std=0.1, generator=draw)
        elif parameter.dim() > 1 and 0 < float(parameter.std()) < 0.05:
            parameter.mul_(0.1 / float(parameter.std()))
