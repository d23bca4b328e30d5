"""A tiny model of any family, and a tokenizer of bytes for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from faststeer.models import loading

MakeTiny = Callable[..., PreTrainedModel]


class ByteTokenizer:
    """A token for each byte, and a token 256 in front where special tokens are asked for."""

    bos_token_id = 256

    def __init__(self) -> None:
        self.pad_token_id: int | None = None

    def __call__(
        self,
        text: str,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> dict[str, list[int]]:
        ids = [self.bos_token_id] * add_special_tokens + list(text.encode())
        return {"input_ids": ids[:max_length] if truncation else ids}

    def decode(self, ids: list[int], **options: Any) -> str:
        return bytes(token for token in ids if token < self.bos_token_id).decode(errors="replace")


def make_tiny_model(
    dtype: torch.dtype = torch.float32,
    layers: int = 4,
    hidden: int = 64,
    seed: int = 0,
    family: str = "Llama",
    **config: Any,
) -> PreTrainedModel:
    """Random weights, the same for the same arguments; `config` goes to the family's.

    Norm weights and biases are random too: fresh ones are ones and zeros, which hides mistakes.
    No token ends a text, so that what is generated has the length that was asked for.
    """
    facts: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,  # at the usual 0.02 a layer hardly changes the stream
        "eos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]), loading.default_dtype(dtype), torch.no_grad():
        torch.manual_seed(seed)
        stock = getattr(transformers, f"{family}ForCausalLM")
        model = stock(stock.config_class(**facts | config))
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model.eval()
