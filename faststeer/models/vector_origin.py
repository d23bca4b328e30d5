"""Warn where a vector was made for another model than the one it is used with."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from faststeer.models.decoders import model_name
from faststeer.models.fingerprint import fingerprint
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector

_LLAMA_CPP_CALLS_LLAMA = ("llama", "mistral", "mixtral", "smollm3")


def origin_facts(decoder: nn.Module) -> dict[str, str | None]:
    """Return the metadata by which a vector's model is recognised: its name and fingerprint."""
    known = fingerprint(decoder)
    facts = {"model": model_name(decoder)}
    return facts if known is None else {**facts, "fingerprint": known}


def warn_of_other_model(vector: SteeringVector, decoder: nn.Module, stacklevel: int = 3) -> None:
    """Warn where the vector states that it was made for another model than this.

    A model whose weights have the stated fingerprint is the same whatever its name and folder.

    Args:
        vector: may state ``model``, ``fingerprint``, ``model_type`` (of GGUF and .svec files) and
            ``num_layers``.
        decoder: the decoder that it is used with.
        stacklevel: as of `warnings.warn`; 3 is the caller of what calls this.
    """
    name, kind, count = model_name(decoder), _config(decoder, "model_type"), _layers_of(decoder)
    stated = vector.metadata.get("model")
    hint = vector.metadata.get("model_type")
    layers = vector.metadata.get("num_layers")
    if stated and name and stated not in (name, _last_part(name)):  # CAA's files have that alone
        other, own = repr(stated), repr(name)
    elif isinstance(hint, str) and isinstance(kind, str) and not _fits(hint, kind, name):
        other, own = f"models of type {hint!r}", f"of type {kind!r}"
    elif isinstance(layers, int) and count is not None and layers != count:
        other, own = f"a model of {layers} layers", f"one of {count}"
    else:
        return
    weights = vector.metadata.get("fingerprint")
    if weights is not None and weights == fingerprint(decoder):
        return
    warnings.warn(
        f"vector {vector.name!r} was made for {other}, but this model is {own}",
        FaststeerWarning,
        stacklevel=stacklevel,
    )


def _fits(hint: str, kind: str, name: str | None) -> bool:
    """Return whether a GGUF's model_hint may refer to a model of this type.

    It is a transformers model type, llama.cpp's name of an architecture, or a model's name.
    """
    if hint == "unknown" or (name and hint in (name, _last_part(name))):
        return True
    if _letters(hint) == "llama" and kind in _LLAMA_CPP_CALLS_LLAMA:
        return True
    one, other = _letters(_last_part(hint)), _letters(kind)
    return one.startswith(other) or other.startswith(one)


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[-1]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _layers_of(model: nn.Module) -> int | None:
    # where encoder and decoder have counts of their own, the other name is the encoder's
    count = _config(model, "decoder_layers") or _config(model, "num_hidden_layers")
    return count if isinstance(count, int) else None


def _config(model: nn.Module, key: str) -> Any:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return getattr(text, key, None)
