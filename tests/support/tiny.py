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
    """Tokenizer with a token per byte; special tokens put token 256 in front."""

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

    def __len__(self) -> int:
        return 1 + self.bos_token_id

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
    """Return a model with reproducible random weights; `config` goes to the family's configuration.

    Norm weights and biases are random too: their defaults of ones and zeros would hide mistakes.
    No token ends a text, so that generated texts have the requested length.
    """
    facts: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,  # at the usual 0.02 layers hardly change the stream
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
