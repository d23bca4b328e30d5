"""Configuration of a tiny model of each family, besides the common settings."""

from typing import Any

ALTERNATING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
HEADS = {"head_dim": 16, "query_pre_attn_scalar": 16}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
MORE: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "Qwen3": {"head_dim": 16},
    "SmolLM3": {"no_rope_layer_interval": 2, "pad_token_id": 0},
    "Phi3": {"resid_pdrop": 0.1, "pad_token_id": 0},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mlp_only_layers": [1],
    },
    "Gemma": {"head_dim": 16},
    "Gemma2": HEADS | ALTERNATING | CAPS,
    "Gemma3": HEADS | ALTERNATING,
}
