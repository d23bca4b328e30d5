"""Import modules once, in the parent process, for all children."""

from __future__ import annotations

import os

import torch


def preload() -> None:
    """Import the parts of transformers that models of all classes need."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)  # a fork of a process with threads may hang
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    model = transformers.LlamaForCausalLM(config)
    model.generate(torch.tensor([[3]]), max_new_tokens=1)
