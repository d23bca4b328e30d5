"""A local hub cache: tiny random models under the hub names that the peers' tests request.

The layout is huggingface_hub's own (``models--org--name/refs/main`` and ``snapshots/COMMIT``), so
that ``from_pretrained("org/name")`` works offline and unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

COMMIT = "0" * 40
VOCABULARY = 1024

_OPT = {"word_embed_proj_dim": 64, "ffn_dim": 128}
_LLAMA = {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "head_dim": 16,
    "per_layer_config": {"01": {"head_dim": 32}, "03": {"head_dim": 32}},
}

# By hub name: the class, and the settings of its configuration besides `_COMMON`.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", _OPT),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", {}),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", {"rotary_dim": 4}),
    "peft-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", {}),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", {}),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", _LLAMA),
    "trl-internal-testing/tiny-Qwen2ForCausalLM-2.5": ("Qwen2ForCausalLM", _LLAMA),
    "trl-internal-testing/tiny-Qwen3ForCausalLM": ("Qwen3ForCausalLM", _LLAMA),
    "trl-internal-testing/tiny-Qwen3MoeForCausalLM": ("Qwen3MoeForCausalLM", _LLAMA | _MOE),
    "hf-internal-testing/tiny-qwen3-moe": ("Qwen3MoeForCausalLM", _LLAMA | _MOE),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", _LLAMA),
    "peft-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", _LLAMA),
    "hf-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", _LLAMA),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        _LLAMA,
    ),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("MistralForCausalLM", _LLAMA),
    "hf-internal-testing/Mixtral-tiny": ("MixtralForCausalLM", _LLAMA | {"num_local_experts": 4}),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", _LLAMA),
    "peft-internal-testing/tiny-random-gemma4-E2B": ("Gemma4ForCausalLM", _LLAMA | _GEMMA4),
}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,  # with 2 of 4 key-value heads 32 wide: adapters of rank 20 fit everywhere
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    # Gives logits of about 1. The tests' tolerances are absolute: too loose at the usual 0.02; at
    # 0.2, one of 1e-6 is below the rounding of logits of 7, in which fused and stock norms differ.
    "initializer_range": 0.05,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 3,  # the padding token's embedding is zero, and the tests feed tokens 1 and 2
}


def write_hub(cache: Path, report: Callable[[str], None]) -> None:
    """Write every model of `MODELS` that the installed transformers has into `cache`.

    Args:
        cache: the folder that HF_HUB_CACHE will name; existing models in it are kept.
        report: called with a line for each class that this transformers lacks.
    """
    tokenizer = byte_tokenizer()
    for name, (kind, facts) in MODELS.items():
        stock = getattr(transformers, kind, None)
        if stock is None:
            report(f"transformers {transformers.__version__} has no {kind}: no {name}")
            continue
        entry = cache / f"models--{name.replace('/', '--')}"
        if (entry / "refs" / "main").is_file():
            continue
        snapshot = entry / "snapshots" / COMMIT
        random_model(stock, facts).save_pretrained(snapshot)
        tokenizer.save_pretrained(snapshot)
        (entry / "refs").mkdir(exist_ok=True)
        (entry / "refs" / "main").write_text(COMMIT)  # last: an interrupted entry is rewritten


def random_model(stock: Any, facts: dict[str, Any]) -> Any:
    """Return a model with seeded random weights, biases and norm weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = stock(stock.config_class(**_COMMON | facts))
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # default values hide mistakes
                parameter.uniform_(-0.1, 0.1).add_(1.0 if "norm" in name else 0.0)
    return model


def byte_tokenizer() -> Any:
    """Return a tokenizer with one token per byte and the special tokens that tests use."""
    specials = ["<s>", "</s>", "<unk>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(specials + letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],  # transformers 4 adds token types
    )
