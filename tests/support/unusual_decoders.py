"""Tiny random decoders of unknown families, each unusual in its own way, and their states."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from faststeer.models.decoders import find_blocks

_PLAIN: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.1,
    "bos_token_id": 256,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_BERT = {"is_decoder": True, "max_position_embeddings": 130}
_BART: dict[str, Any] = {
    "d_model": 64,
    "decoder_layers": 3,
    "encoder_layers": 3,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "encoder_ffn_dim": 128,
    "max_position_embeddings": 128,
    "init_std": 0.1,
    "is_decoder": True,
    "is_encoder_decoder": False,
}

# Class of the causal model -> settings that its configuration needs besides the common ones.
CLASSES: dict[str, dict[str, Any]] = {
    "RobertaForCausalLM": _BERT,
    "XLMRobertaForCausalLM": _BERT,
    "XLMRobertaXLForCausalLM": _BERT,
    "CamembertForCausalLM": _BERT,
    "Data2VecTextForCausalLM": _BERT,
    "RobertaPreLayerNormForCausalLM": _BERT,
    "BartForCausalLM": _BART,
    "MBartForCausalLM": _BART,
    "PegasusForCausalLM": _BART,
    "BlenderbotForCausalLM": _BART,
    "MarianForCausalLM": _BART,
    "TrOCRForCausalLM": _BART | {"max_position_embeddings": 128},
    "OPTForCausalLM": {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
    "XGLMForCausalLM": {
        **{"d_model": 64, "num_layers": 3, "attention_heads": 4, "ffn_dim": 128},
        "max_position_embeddings": 128,
    },
    "BioGptForCausalLM": {"max_position_embeddings": 128},
    "MambaForCausalLM": {"state_size": 8},
    "RwkvForCausalLM": {"attention_hidden_size": 64, "rescale_every": 0},
    "XLNetLMHeadModel": {"d_model": 64, "n_layer": 3, "n_head": 4, "d_inner": 128},
    "RecurrentGemmaForCausalLM": {
        **{"num_key_value_heads": 1, "lru_width": 64, "attention_window_size": 64},
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "GPT2LMHeadModel": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "FalconForCausalLM": {"alibi": False},
    "BloomForCausalLM": {"n_layer": 3, "n_head": 4},
}
BUILDABLE = [name for name in CLASSES if hasattr(transformers, name)]
SMALL = ("RobertaForCausalLM", "BartForCausalLM", "MambaForCausalLM", "RwkvForCausalLM")
SMALL += ("XLNetLMHeadModel", "RecurrentGemmaForCausalLM", "GPT2LMHeadModel")
SMALL += ("FalconForCausalLM", "BloomForCausalLM")


def strange(name: str, **config: Any) -> Any:
    """Return a model of that class with random weights, biases and norm weights."""
    kind = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = kind(kind.config_class(**_PLAIN | CLASSES.get(name, {}) | config))
        for parameter_name, parameter in model.named_parameters():
            if "norm" in ".".join(parameter_name.lower().split(".")[-2:]):
                parameter.uniform_(0.5, 1.5)
            elif parameter_name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model.eval()


def layers_of(model: Any) -> list[nn.Module]:
    """Return the blocks of the model's decoder."""
    decoder, blocks = find_blocks(model)
    return blocks if isinstance(blocks, list) else blocks.of(decoder)


def stored_states(model: Any, ids: list[int]) -> Tensor:
    """Return the states ``[L, T, H]`` of one text alone, by a plain hook on each layer."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    layers = layers_of(model)
    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            find_blocks(model)[0](torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == len(layers)
    return torch.stack([hidden.reshape(len(ids), -1) for hidden in seen])


class MixesAll(transformers.PreTrainedModel):
    """Decoder that ignores masks: each layer adds the mean over all columns, padding included."""

    config_class = transformers.GPT2Config

    def __init__(self) -> None:
        super().__init__(transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2))
        self.embed = nn.Embedding(300, 32)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(32, 32)) for _ in range(2)])
        self.lengths: list[tuple[int, ...]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.lengths.append(tuple(sorted(set(attention_mask.sum(1).tolist()))))
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden + hidden.mean(1, keepdim=True))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)
