"""Tiny decoders of no known family whose blocks plain hooks find."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers

SMALL: dict[str, Any] = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 0}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "initializer_range": 0.1}


def make(name: str) -> Any:
    """Return a decoder with its blocks at `model.blocks.layers`, as the plain hooks expect."""
    facts = GPT2 if name == "GPT2" else SIZES
    config = getattr(transformers, f"{name}Config")(**SMALL, **facts)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).eval()
    decoder = model.transformer if name == "GPT2" else model.gpt_neox
    layers = decoder.h if name == "GPT2" else decoder.layers
    model.__dict__["blocks"] = SimpleNamespace(layers=layers)
    return model
