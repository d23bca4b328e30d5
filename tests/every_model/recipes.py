"""Sizes of tiny models, by the names that configurations use, and exceptions by class.

Sizes differ from each other where a mistake could exchange them: 4 layers, 8 experts, hidden 32. A
window of 4 tokens is shorter than the prompts, so that caches of windows do wrap around.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LAYERS = 4
HEADS = 4
HIDDEN = 32
VOCABULARY = 128
WINDOW = 4

LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "encoder_layers",
    "num_blocks",
    "num_decoder_layers",
    "num_encoder_layers",
    "max_window_layers",
    "num_hash_layers",
)
_SIZES = (
    (
        HIDDEN,
        "hidden_size d_model n_embd emb_dim word_embed_proj_dim lru_width embedding_size "
        "embedding_dim input_embedding_size output_embedding_size attention_hidden_size "
        "backbone_hidden_size linear_size",
    ),
    (
        VOCABULARY,
        "vocab_size vocab_size_per_layer_input unpadded_vocab_size decoder_vocab_size "
        "pronunciation_vocab_size shape_vocab_size num_mel_bins",
    ),
    (
        HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads attention_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "swa_num_attention_heads index_n_heads linear_num_value_heads linear_num_heads "
        "num_query_groups pronunciation_embed_dim shape_embed_dim",
    ),
    (
        2,
        "num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads "
        "num_experts_per_tok num_experts_per_token moe_topk moe_k n_group num_expert_group",
    ),
    (
        1,
        "topk_group n_shared_experts num_shared_experts moe_num_shared_experts "
        "first_k_dense_replace num_dense_layers moe_layer_start_index",
    ),
    (
        8,
        "head_dim dim_head swa_head_dim kv_channels attention_head_size qk_nope_head_dim "
        "qk_rope_head_dim v_head_dim index_head_dim linear_key_head_dim linear_value_head_dim "
        "linear_head_dim d_head num_experts n_routed_experts num_local_experts moe_num_experts "
        "mamba_d_state state_size ssm_state_size mamba_n_heads mamba_d_head mamba_num_heads "
        "mamba_head_dim mamba_chunk_size chunk_size time_step_rank mamba_dt_rank laurel_rank "
        "hidden_size_per_layer_input loop_gate_rank gated_norm_rank adapter_rank d_rel "
        "n_mamba_heads query_pre_attn_scalar global_head_dim",
    ),
    (
        16,
        "q_lora_rank kv_lora_rank qk_head_dim o_lora_rank router_hidden_size mamba_headdim "
        "attention_head_dim",
    ),
    (
        64,
        "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff "
        "dim_ff d_inner feed_forward_size mamba_d_ssm intermediate_size_mlp "
        "dense_intermediate_size max_position_embeddings n_positions n_ctx max_seq_len "
        "context_length model_max_length max_source_positions max_target_positions "
        "original_max_position_embeddings shared_intermediate_size "
        "shared_experts_intermediate_size",
    ),
    (
        24,
        "moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size "
        "moe_shared_expert_intermediate_size",
    ),
    (
        WINDOW,
        "sliding_window sliding_window_size window_size attention_window_size local_attention "
        "attention_chunk_size block_multiple_of",
    ),
)
# Tokens: prompts contain none below 30, so that no special one is among them.
_TOKENS = "pad_token_id bos_token_id eos_token_id decoder_start_token_id sep_token_id cls_token_id "
_TOKENS += "mask_token_id image_token_id video_token_id audio_token_id image_token_index "
_TOKENS += "boi_token_id eoi_token_id boa_token_id eoa_token_id boi_token_index eoi_token_index "
_TOKENS += "eoa_token_index vision_start_token_id vision_end_token_id eod_token_id"
FIRST_TOKEN = 30

SIZES: dict[str, Any] = {
    **dict.fromkeys(LAYER_COUNTS, LAYERS),
    **{name: size for size, names in _SIZES for name in names.split()},
    **{name: number for number, name in enumerate(_TOKENS.split())},
    "initializer_range": 0.1,
    "init_std": 0.1,
    "use_mamba_kernels": False,
    "is_decoder": True,
}


@dataclass(frozen=True)
class Recipe:
    """Additions to the general sizes for one class.

    `config`: settings of its configuration. `older`: those that earlier releases need, tried where
        the first do not work. `blocks`: the path of its blocks, where several lists
        could be meant. `codebooks`: lines of ids per sequence. `unbuilt`: why it cannot be built.
    """

    config: dict[str, Any] = field(default_factory=dict)
    older: dict[str, Any] | None = None
    blocks: str | None = None
    codebooks: int = 1
    unbuilt: str | None = None


_ALTERNATING = ["linear_attention", "full_attention"] * 2
_WINDOWS = ["sliding_attention", "full_attention"] * 2

RECIPES: dict[str, Recipe] = {
    "BailingHybridForCausalLM": Recipe({"layer_group_size": 2}),
    "BambaForCausalLM": Recipe({"attn_layer_indices": [1, 3]}),
    "BigBirdForCausalLM": Recipe({"attention_type": "original_full"}),
    "BigBirdPegasusForCausalLM": Recipe({"attention_type": "original_full"}),
    "BltForCausalLM": Recipe(
        {
            "encoder_hash_byte_group_vocab": 64,
            "encoder_config": {"hidden_size_global": HIDDEN, "num_hidden_layers": 1},
            "decoder_config": {"hidden_size_global": HIDDEN, "num_hidden_layers": 2},
            "patcher_config": {"num_hidden_layers": 2},
            "num_hidden_layers": LAYERS,
        },
        blocks="model.global_transformer.layers",
    ),
    "CodeGenForCausalLM": Recipe({"rotary_dim": 8}),
    "CohereCompassForCausalLM": Recipe(
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}
    ),
    "DbrxForCausalLM": Recipe(
        {
            "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
        }
    ),
    "DoryForCausalLM": Recipe({"n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1}),
    "Dots3NoteForCausalLM": Recipe(
        {
            "swa_num_attention_heads": HEADS,
            "swa_num_key_value_heads": HEADS,
            "swa_q_lora_rank": 16,
            "swa_kv_lora_rank": 16,
            "swa_head_dim": 16,
            "swa_qk_nope_head_dim": 8,
            "swa_v_head_dim": 8,
        }
    ),
    "FuyuForCausalLM": Recipe({"text_config": {"model_type": "persimmon"}}),
    "Gemma3ForConditionalGeneration": Recipe(
        {"vision_config": {"model_type": "siglip_vision_model", "image_size": 8, "patch_size": 4}}
    ),
    "Gemma3nForCausalLM": Recipe({"num_kv_shared_layers": 1, "layer_types": _WINDOWS}),
    "Gemma4AssistantForCausalLM": Recipe(
        unbuilt="drafts for a larger model: it attends to the keys and values of that one alone"
    ),
    "Gemma4UnifiedAssistantForCausalLM": Recipe(
        unbuilt="drafts for a larger model: it attends to the keys and values of that one alone"
    ),
    "Gemma4UnifiedForConditionalGeneration": Recipe({"vision_config": None, "audio_config": None}),
    "GotOcr2ForConditionalGeneration": Recipe({"text_config": {"model_type": "qwen2"}}),
    "GPTJForCausalLM": Recipe({"rotary_dim": 8}),
    "GPTNeoForCausalLM": Recipe({"attention_types": [[["global", "local"], 2]]}),
    "GraniteMoeHybridForCausalLM": Recipe(
        {"layer_types": _ALTERNATING}, older={"layer_types": ["mamba", "attention"] * 2}
    ),
    "JambaForCausalLM": Recipe({"attn_layer_period": 2, "attn_layer_offset": 1}),
    "KimiLinearForCausalLM": Recipe({"layer_types": _ALTERNATING}),
    "Lfm2MoeForCausalLM": Recipe({"layer_types": ["conv", "full_attention"] * 2}),
    "Mamba2ForCausalLM": Recipe({"num_heads": 8}),
    "MllamaForCausalLM": Recipe(older={"rope_scaling": {"rope_type": "default"}}),
    "MoshiForCausalLM": Recipe(
        {"audio_vocab_size": 64, "audio_encoder_config": {"model_type": "mimi"}}
    ),
    "MossTranscribeDiarizeForConditionalGeneration": Recipe(
        {"text_config": {"model_type": "qwen3"}}
    ),
    "MusicgenForCausalLM": Recipe(codebooks=4),
    "MusicgenMelodyForCausalLM": Recipe(codebooks=4),
    "Qwen4ExpForCausalLM": Recipe(
        {
            "hc_lowrank": 8,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
        }
    ),
    "ReformerModelWithLMHead": Recipe(
        {
            "axial_pos_embds": False,
            "attn_layers": ["local", "lsh"] * 2,
            "local_attn_chunk_length": 4,
            "lsh_attn_chunk_length": 4,
            "num_buckets": 2,
        }
    ),
    "TransfoXLLMHeadModel": Recipe({"cutoffs": [40, 80], "d_embed": HIDDEN, "mem_len": 16}),
    "xLSTMForCausalLM": Recipe({"hidden_size": 128, "embedding_dim": 128}),
    "XmodForCausalLM": Recipe({"default_language": "en_XX"}),
    "ZambaForCausalLM": Recipe(
        {"attn_layer_period": 2, "attn_layer_offset": 0, "attention_hidden_size": 64}
    ),
    "Zamba2ForCausalLM": Recipe({"layers_block_type": ["mamba", "hybrid"] * 2}),
    "ZayaForCausalLM": Recipe({"num_experts_per_tok": 1}),
}
