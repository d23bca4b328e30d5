"""One feature of a sparse autoencoder's file: SAELens folders and Gemma Scope's ``.npz``.

An autoencoder encodes a token's residual stream x to ``a = f(W_enc^T (x - b) + b_enc)`` and decodes
it to ``a W_dec + b_dec``. A row of W_dec is what a unit of that feature's activation adds to the
stream: the direction to steer with. A column of W_enc with its bias is what the feature reads.

- **SAELens** (github.com/decoderesearch/SAELens, ``SAE.save_model``): a folder of ``cfg.json`` and
  ``sae_weights.safetensors`` with W_enc ``[d_in, d_sae]`` and W_dec ``[d_sae, d_in]``. The hook's
  name is ``hook_point``, then ``hook_name``, and from version 6 on ``metadata.hook_name``.
- **Gemma Scope** (Lieberum et al. 2024, arXiv 2408.05147): a ``params.npz`` with the same arrays
  and a JumpReLU threshold per feature. It states neither layer nor site: the folders around it do,
  as the hub's repositories name them, or the caller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

from torch import Tensor

from faststeer.utils.text_files import read_utf8
from faststeer.vectors.formats.sae_arrays import SaeArrays, arrays_of
from faststeer.vectors.formats.vector_data import VectorData
from faststeer.vectors.sites import SITES

PARTS = ("decoder", "encoder")
_CONFIG, _WEIGHTS, _ARRAYS = "cfg.json", "sae_weights.safetensors", "params.npz"
_HOOK = re.compile(r"blocks\.(\d{1,6})\.hook_(resid_(?:pre|mid|post))")
_MODULE = re.compile(r"(?:model\.layers|layers|transformer\.h)\.(\d{1,6})")  # of transformers
_ARCHITECTURES = ("standard", "gated", "jumprelu", "topk")
_NORMALISED = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
_SCOPE = re.compile(r"(?:.*--)?gemma-scope-(\d+b)-(pt|it)-([a-z]+)")
_OTHER_NAMES = {"gpt2-small": "gpt2"}  # TransformerLens's for the hub's


@dataclass(frozen=True)
class SaeConfig:
    """What an autoencoder's file states, or its folders do."""

    layer: int
    site: str
    architecture: str
    normalised: str
    subtracts_bias: bool  # whether the decoder's bias is subtracted from the encoder's input
    rescaled: bool = False  # whether activations are those of decoder rows of norm 1
    model: str | None = None
    width: int | None = None  # of the stream
    features: int | None = None


def decode(
    path: Path, feature: int, part: str, layer: int | None = None, site: str | None = None
) -> VectorData:
    """Read one feature. Arguments and errors are those of `SteeringVector.from_sae`."""
    if part not in PARTS:
        raise ValueError(f"part {part!r} is unknown; expected one of {', '.join(PARTS)}")
    if isinstance(feature, bool) or not isinstance(feature, int):
        raise TypeError(f"feature is a {type(feature).__name__}; expected a number from 0")
    config, weights = _found(path, layer, site)
    with arrays_of(weights) as arrays:
        arrays.require_shapes(config.width, config.features)
        count, width = arrays.shape("W_dec")
        if not 0 <= feature < count:
            raise ValueError(f"feature {feature} is out of range: it has 0 to {count - 1}")
        facts: dict[str, Any] = {
            "feature": feature,
            "features": count,
            "part": part,
            "architecture": config.architecture,
            "normalize_activations": config.normalised,
        }
        row = _decoder_row(arrays, feature, config)
        if part == "decoder":
            direction = row
            facts["norm"] = float(row.norm())
            if config.architecture == "jumprelu":
                facts["threshold"] = _threshold(arrays, feature)
        else:
            direction = arrays.column("W_enc", feature)
            facts |= _fires_above(arrays, feature, config, direction, width)
    metadata: dict[str, Any] = {"method": "sae", "sae": facts}
    if config.model is not None:
        metadata["model"] = config.model
    name = f"feature-{feature}" + ("-encoder" if part == "encoder" else "")
    return VectorData(name, {config.layer: direction}, config.site, metadata)


def _found(path: Path, layer: int | None, site: str | None) -> tuple[SaeConfig, Path]:
    """Return what is stated of an autoencoder, and the file of its arrays."""
    if (path / _CONFIG).is_file():
        config = _saelens(path / _CONFIG)
        for given, stated, what in ((layer, config.layer, "layer"), (site, config.site, "site")):
            if given not in (None, stated):
                raise ValueError(f"{_CONFIG} states {what} {stated!r}, not {given!r}")
        return config, path / _WEIGHTS
    arrays = path / _ARRAYS if (path / _ARRAYS).is_file() else path
    if arrays.suffix == ".npz":
        return _gemma_scope(arrays, layer, site), arrays
    raise ValueError(
        f"no sparse autoencoder: expected a folder of SAELens, with {_CONFIG} and {_WEIGHTS}, or "
        "Gemma Scope's params.npz"
    )


def _saelens(file: Path) -> SaeConfig:
    try:
        config = json.loads(read_utf8(file, "an autoencoder's configuration"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_CONFIG} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{_CONFIG} holds a {type(config).__name__}; expected an object")
    inner = config.get("metadata")
    facts = {**config, **(inner if isinstance(inner, dict) else {})}
    missing = [key for key in ("d_in", "d_sae") if type(facts.get(key)) is not int]
    hook = facts.get("hook_name", facts.get("hook_point"))
    if missing or not isinstance(hook, str):
        raise ValueError(f"{_CONFIG} lacks {', '.join(missing) or 'hook_name'}")
    if facts.get("hook_head_index", facts.get("hook_point_head_index")) is not None:
        raise ValueError(
            f"{_CONFIG} states a single head of {hook!r}; use SteeringVector.from_heads"
        )
    layer, site = _place(hook, facts)
    function = facts.get("activation_fn_str", facts.get("activation_fn", "relu"))
    architecture = facts.get("architecture", "standard")
    if architecture == "standard" and function == "topk":
        architecture = "topk"
    if architecture not in _ARCHITECTURES or function not in ("relu", "topk"):
        raise ValueError(
            f"architecture {architecture!r} with activation {function!r}; expected one of "
            f"{', '.join(_ARCHITECTURES)}, of relu or topk"
        )
    if facts.get("finetuning_scaling_factor"):
        raise ValueError("it has a finetuning_scaling_factor: fold it into W_dec first")
    model = facts.get("model_name")
    return SaeConfig(
        layer,
        site,
        architecture,
        _normalised(facts.get("normalize_activations")),
        bool(facts.get("apply_b_dec_to_input", True)),
        bool(facts.get("rescale_acts_by_decoder_norm", False)),
        _OTHER_NAMES.get(model, model) if isinstance(model, str) else None,
        facts["d_in"],
        facts["d_sae"],
    )


def _place(hook: str, facts: Mapping[str, Any]) -> tuple[int, str]:
    """Return the layer and the site of a hook's name."""
    if match := _HOOK.fullmatch(hook):
        return int(match[1]), match[2]
    if facts.get("model_class_name") == "AutoModelForCausalLM" and (
        match := _MODULE.fullmatch(hook)
    ):
        return int(match[1]), "resid_post"
    raise ValueError(
        f"it reads {hook!r}, which is no site of the residual stream; expected "
        "blocks.LAYER.hook_resid_pre, hook_resid_mid or hook_resid_post"
    )


def _normalised(stated: Any) -> str:
    if stated is None or isinstance(stated, bool):  # of early versions
        return "expected_average_only_in" if stated else "none"
    if stated not in _NORMALISED:
        raise ValueError(
            f"normalize_activations {stated!r} is unknown; expected one of {', '.join(_NORMALISED)}"
        )
    return str(stated)


def _gemma_scope(file: Path, layer: int | None, site: str | None) -> SaeConfig:
    folders = file.absolute().parts[:-1]
    stated = [int(part[6:]) for part in folders if re.fullmatch(r"layer_\d{1,6}", part)]
    scopes = [match for part in folders if (match := _SCOPE.fullmatch(part))]
    if "embedding" in folders:
        raise ValueError("Gemma Scope's autoencoder of the embedding, before its scale: no site")
    if scopes and scopes[-1][3] != "res":
        raise ValueError(
            f"{scopes[-1][0]} does not read the residual stream; expected gemma-scope-...-res"
        )
    if layer is None and not stated:
        raise ValueError("no folder around it is named layer_N: give layer=")
    if layer is not None and stated and layer != stated[-1]:
        raise ValueError(f"its folder states layer {stated[-1]}, not {layer}")
    if site is None and not scopes:
        raise ValueError(
            "no folder around it is named gemma-scope-...-res, and the file does not state where "
            "it reads: give site='resid_post' if it is of the residual stream"
        )
    if scopes and site not in (None, "resid_post"):
        raise ValueError(f"{scopes[-1][0]} reads resid_post, not {site!r}")
    if site is not None and site not in SITES:
        raise ValueError(f"site {site!r} is unknown; expected one of {', '.join(SITES)}")
    model = None
    if scopes:
        model = f"gemma-2-{scopes[-1][1]}" + ("-it" if scopes[-1][2] == "it" else "")
    return SaeConfig(
        stated[-1] if layer is None else layer,
        site or "resid_post",
        "jumprelu",
        "none",
        subtracts_bias=False,
        model=model,
    )


def _decoder_row(arrays: SaeArrays, feature: int, config: SaeConfig) -> Tensor:
    """Return what a unit of the feature's activation adds to the stream, ``[H]``."""
    row = arrays.row("W_dec", feature)
    for key in ("scaling_factor", "finetuning_scaling_factor"):
        if key in arrays.names and arrays.number(key, feature) != 1:
            raise ValueError(f"it has a {key}: fold it into W_dec first")
    norm = row.norm()
    if norm == 0:
        raise ValueError(f"feature {feature} decodes to zeros; it is dead")
    return row / norm if config.rescaled else row


def _threshold(arrays: SaeArrays, feature: int) -> float:
    """Return the activation above which a JumpReLU feature is not zero."""
    if "threshold" not in arrays.names and "log_threshold" in arrays.names:
        return float(arrays.tensor_number("log_threshold", feature).exp())
    return max(0.0, arrays.number("threshold", feature))


def _fires_above(
    arrays: SaeArrays, feature: int, config: SaeConfig, column: Tensor, width: int
) -> dict[str, float]:
    """Return when the feature is active, in terms of a token x and the encoder's column w.

    ``projection``: where ``x · w`` is above it. ``cosine``: where their cosine similarity is.

    Raises:
        ValueError: neither alone decides it.
    """
    if config.architecture == "topk":
        raise ValueError(
            "a feature of a topk autoencoder is active where it is among the largest: no threshold "
            "of its own"
        )
    if config.normalised not in ("none", "constant_norm_rescale"):
        raise ValueError(
            f"normalize_activations is {config.normalised!r}: whether the feature is active "
            "depends on more than the file states, or than its direction"
        )
    if not column.any():
        raise ValueError(f"feature {feature} reads nothing: its encoder's column is zero")
    if config.architecture == "gated":  # the gate is open, and the magnitude is above 0
        magnitude = -arrays.number("b_mag", feature) * exp(-arrays.number("r_mag", feature))
        above = max(-arrays.number("b_gate", feature), magnitude)
    else:
        least = _threshold(arrays, feature) if config.architecture == "jumprelu" else 0.0
        above = least - arrays.number("b_enc", feature)
    if config.subtracts_bias:
        above += float(arrays.whole("b_dec").double() @ column.double())
    if config.normalised == "none":
        return {"projection": above}
    return {"cosine": above / (float(column.double().norm()) * width**0.5)}
