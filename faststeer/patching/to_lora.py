"""`to_lora`: an ablation as an adapter, which engines that know LoRA apply for each request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from faststeer.models.decoders import model_name
from faststeer.models.stream_writers import StreamWriters
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.patching.bake_checks import require_ablatable, require_bakeable, unit_direction
from faststeer.steering.resolved_use import resolve_mode
from faststeer.utils.files import new_folder
from faststeer.utils.version import VERSION
from faststeer.vectors.arguments import finite, require_fitting
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names
_PREFIX = "base_model.model.model."
_BLOCK = 8192  # rows at a time: at hidden size 4096 that is 256 MB of float64


def to_lora(
    model: nn.Module,
    vector: SteeringVector,
    layer: int | None = None,
    fraction: float = 1.0,
    *,
    output: str | PathLike[str],
    embedding: bool = True,
    **unknown: NoReturn,
) -> Path:
    """Write an ablation as a LoRA adapter of rank 1, in PEFT's format.

    A direction d of norm 1 is taken out of everything that is written into the residual stream,
    ``W - fraction * d (d^T W)`` for the embedding and for every ``o_proj`` and ``down_proj``. That
    is a product of a column and a row, so any engine that serves LoRA ablates for each request,
    without faststeer.

    At the default fraction 1.0 the adapter does exactly what ``patch(model).ablate(vector,
    layer=layer)`` does, at every site of every layer, whichever layer the direction is from. At
    others it does what ``bake(..., mode="ablate")`` does: each write is scaled along d, once.

    The embedding's part is an ``embed_tokens`` adapter, and a head that is tied to it must keep its
    own weights. PEFT does so while the adapter is not merged; before merging, give ``lm_head`` a
    copy of its weight. Engines that have no adapters of embeddings refuse the file, such as vLLM
    0.32 for others than LLaMA. ``embedding=False`` leaves that part out: the stream then keeps
    what the token's embedding has along d, which equals no setting of `ablate`.

    Args:
        model: a causal model of a family that `bake` knows, with plain weights and without biases
            where the stream is written, on any device. It is not changed.
        vector: has the direction ``[H]``.
        layer: whose direction it is; may be left out where the vector has one layer.
        fraction: how much of it is taken out.
        output: a folder to write, new or empty: ``adapter_config.json`` and
            ``adapter_model.safetensors``, float32.
        embedding: whether the embedding is adapted.
        unknown: nothing; other keywords are refused.

    Returns:
        The folder.

    Raises:
        TypeError: not a module or SteeringVector, or a fraction that is not a number.
        ValueError: a model whose weights are not known or not plain, one with biases that write
            (LoRA has none), experts, or norms behind what is written (Gemma 2 and 3); a vector of
            another hidden size; a layer that it lacks, or several and no `layer`; a direction of
            zeros; a fraction that is not finite.
        OSError: the folder exists with files in it, or cannot be written.
    """
    refuse_unknown("to_lora", unknown, "layer")
    writers = require_bakeable(model, "to_lora")
    causal: Any = model
    require_fitting(vector, causal.config.hidden_size, "to_lora")
    if layer is None and len(vector.layers) > 1:
        raise ValueError(f"{vector.name!r} has layers {vector.layers}; say which with layer=")
    layer = vector.layers[0] if layer is None else layer
    vector.select(layer)
    resolve_mode(vector, "project")
    fraction = finite(fraction, f"fraction of {vector.name!r}")
    require_ablatable(writers, model)
    _require_linear(writers, causal)
    direction = unit_direction(vector, layer)
    warn_of_other_model(vector, causal.model)
    tensors = dict(_factors(writers, causal, direction, fraction, embedding))
    modules = {name.split(".lora_")[0].rpartition(".")[-1] for name in tensors}
    facts = {
        "format": "pt",
        "faststeer": VERSION,
        "vector": vector.name,
        "layer": str(layer),
        "fraction": str(fraction),
    }
    with new_folder(Path(output)) as folder:
        config = json.dumps(_config(model_name(model), sorted(modules)), indent=2)
        (folder / _CONFIG).write_text(config + "\n", encoding="utf-8")
        (folder / _WEIGHTS).write_bytes(to_bytes(tensors, facts))
    return Path(output)


def _require_linear(writers: StreamWriters, model: Any) -> None:
    """Raise ValueError where a LoRA of linear layers does not reach all that is written."""
    for index, layer in enumerate(model.model.layers):
        for path in writers.biased(layer):
            raise ValueError(
                f"model.layers.{index}.{path} has a bias, which a LoRA does not reach: "
                "bake(..., mode='ablate') does"
            )
        if writers.has_experts(layer):
            raise ValueError(
                f"model.layers.{index} has experts, which engines adapt in ways of their own, if "
                "at all: bake(..., mode='ablate') takes the direction out of them"
            )


def _factors(
    writers: StreamWriters, model: Any, direction: Tensor, fraction: float, embedding: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield the adapter's tensors by name: ``B = -fraction d`` and ``A = d^T W``."""
    column = (-fraction * direction).float()[:, None]
    if embedding:
        rows = _along(model.model.embed_tokens.weight, direction)
        yield f"{_PREFIX}embed_tokens.lora_embedding_A", rows
        yield f"{_PREFIX}embed_tokens.lora_embedding_B", column.clone()
    for index, layer in enumerate(model.model.layers):
        for path, weight in writers.weights(layer):
            name = f"{_PREFIX}layers.{index}.{path.removesuffix('.weight')}"
            yield f"{name}.lora_A.weight", _along(weight.T, direction)
            yield f"{name}.lora_B.weight", column.clone()


def _along(rows: Tensor, direction: Tensor) -> Tensor:
    """Return rows ``[N, H]`` along the direction, ``[1, N]`` float32, computed in float64."""
    with torch.inference_mode(False), torch.no_grad():
        parts = [
            rows[start : start + _BLOCK].detach().to("cpu", torch.float64) @ direction
            for start in range(0, len(rows), _BLOCK)
        ]
        return torch.cat(parts).float()[None]


def _config(base: str | None, modules: list[str]) -> dict[str, Any]:
    """Return the content of PEFT's adapter_config.json."""
    return {
        "base_model_name_or_path": base or "",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 1,
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
