"""Files of tiny sparse autoencoders, as SAELens and Gemma Scope write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

H, S = 8, 24
HOOK = "blocks.2.hook_resid_post"
PLAIN = {"d_in": H, "d_sae": S, "dtype": "float32", "device": "cpu"}
VERSION_3 = PLAIN | {
    "architecture": "standard",
    "model_name": "gpt2-small",
    "hook_name": HOOK,
    "hook_layer": 2,
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "normalize_activations": "none",
}
VERSION_6 = PLAIN | {
    "architecture": "jumprelu",
    "apply_b_dec_to_input": False,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {
        "sae_lens_version": "6.21.0",
        "hook_name": HOOK,
        "model_name": "google/gemma-2-2b",
    },
}
EARLIEST = PLAIN | {"hook_point": HOOK, "hook_point_layer": 2, "hook_point_head_index": None}


def arrays(architecture: str = "standard") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {
        "W_enc": torch.randn(H, S, generator=generator),
        "W_dec": torch.randn(S, H, generator=generator),
        "b_dec": torch.randn(H, generator=generator),
    }
    biases = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    found |= {name: torch.randn(S, generator=generator) for name in biases}
    if architecture == "jumprelu":
        found["threshold"] = torch.rand(S, generator=generator)
    return found


def folder(at: Path, config: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    (at / "cfg.json").write_text(json.dumps(config))
    save_file(
        tensors or arrays(config.get("architecture", "standard")), at / "sae_weights.safetensors"
    )
    return at


def npz(at: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    at.parent.mkdir(parents=True, exist_ok=True)
    np.savez(at, **{name: own.numpy() for name, own in (tensors or arrays("jumprelu")).items()})
    return at


def encode(config: dict[str, Any], tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return which features are active ``[N, S]``, as SAELens computes them."""
    if config.get("normalize_activations") == "constant_norm_rescale":
        x = x * (H**0.5 / x.norm(dim=-1, keepdim=True))
    if config.get("apply_b_dec_to_input", True):
        x = x - tensors["b_dec"]
    if "b_gate" in tensors:
        magnitude = x @ (tensors["W_enc"] * tensors["r_mag"].exp()) + tensors["b_mag"]
        return (x @ tensors["W_enc"] + tensors["b_gate"] > 0) & (magnitude > 0)
    before = x @ tensors["W_enc"] + tensors["b_enc"]
    return before > tensors["threshold"].relu() if "threshold" in tensors else before > 0
