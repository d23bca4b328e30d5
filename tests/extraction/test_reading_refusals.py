"""Streams without one state per token and layer are refused by class, layer and length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from read_texts import CLOSE, TEXTS, read
from residual_streams import row_error
from tiny import ByteTokenizer
from torch import Tensor
from unusual_decoders import MixesAll, layers_of, strange

import faststeer
from faststeer.models.text_calls import context_of, decoder_of

PAIRS = [("I love it", "I hate it, and more"), ("so good", "bad"), ("yes, it is", "no")]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


PARALLEL: dict[str, dict[str, Any]] = {
    "Gemma3nForCausalLM": {
        **{"num_key_value_heads": 2, "head_dim": 16, "laurel_rank": 4, "altup_num_inputs": 4},
        **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300},
        **{"num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 3},
        **{"activation_sparsity_pattern": [0.0] * 3, "intermediate_size": [128] * 3},
    },
    "DeepseekV4ForCausalLM": {"num_key_value_heads": 1, "head_dim": 16},
    "CpmAntForCausalLM": {
        **{"dim_head": 16, "dim_ff": 128, "prompt_length": 4, "prompt_types": 4},
        "segment_types": 4,
    },
}


@pytest.mark.parametrize("name", [name for name in PARALLEL if hasattr(transformers, name)])
def test_parallel_streams_and_extra_tokens_are_refused_by_class_and_shape(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name, **PARALLEL[name])
    kind = type(decoder_of(model)).__name__
    with pytest.raises(ValueError, match=rf"the layers of a {kind} hand on \[\d+, \d+, .*64\], "):
        read(model, byte_tokenizer)
    assert "_faststeer" not in decoder_of(model).__dict__


class Looped(MixesAll):
    """Decoder that runs its second layer three times."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = self.blocks[0](self.embed(input_ids))
        for _ in range(3):
            hidden = self.blocks[1](hidden)
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)


DORY: dict[str, Any] = {
    **{"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "n_input_layers": 1},
    **{"n_recurrent_layers": 1, "n_recurrent_loops": 3, "n_output_layers": 0},
    "layer_types": ["full_attention"] * 2,
}


@pytest.fixture(params=["toy", "DoryForCausalLM"])
def looped(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "toy":
        yield Looped().eval()
    elif hasattr(transformers, request.param):
        yield strange(request.param, **DORY)
    else:
        pytest.skip(f"transformers {transformers.__version__} has no {request.param}")


def test_a_layer_that_runs_several_times_is_refused_and_one_that_runs_once_is_read(
    looped: Any, byte_tokenizer: ByteTokenizer
) -> None:
    decoder = decoder_of(looped)
    kind = type(decoder).__name__
    with pytest.raises(ValueError, match=rf"a {kind} runs layers \[1\] several times per"):
        faststeer.extract(looped, byte_tokenizer, PAIRS, progress=False)
    ids = torch.tensor([byte_tokenizer("some text")["input_ids"]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with (
        pytest.raises(ValueError, match=rf"a {kind} runs layer 1 several times per forward pass"),
        faststeer.capture(looped),
    ):
        decoder(**given)
    seen: list[Tensor] = []
    handle = layers_of(looped)[0].register_forward_hook(lambda m, a, output: seen.append(output))
    with torch.no_grad():
        decoder(**given)
    handle.remove()
    first = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    found = read(looped, byte_tokenizer, ["some text"], layers=0)
    assert row_error(found[:, 0], first.reshape(-1, first.shape[-1])[-1:]) < CLOSE
    with faststeer.capture(looped, layers=0) as moments, torch.no_grad():
        decoder(**given)
    assert int(moments[0].count) == ids.shape[1]


def test_layers_that_do_not_run_on_text_are_refused_by_number(
    byte_tokenizer: ByteTokenizer,
) -> None:
    class Skips(MixesAll):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            hidden = self.blocks[0](self.embed(input_ids))
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)

    model = Skips().eval()
    with pytest.raises(ValueError, match=r"a Skips does not run layers \[1\] on texts alone"):
        read(model, byte_tokenizer)
    assert read(model, byte_tokenizer, layers=0).shape == (len(TEXTS), 1, 32)


def test_a_decoder_with_several_codebooks_is_refused(byte_tokenizer: ByteTokenizer) -> None:
    sizes = {"num_hidden_layers": 2, "ffn_dim": 128, "max_position_embeddings": 64}
    config = transformers.MusicgenDecoderConfig(hidden_size=64, num_attention_heads=4, **sizes)
    model = transformers.MusicgenForCausalLM(config).eval()
    with pytest.raises(ValueError, match="a MusicgenDecoder has several token embeddings"):
        read(model, byte_tokenizer)


@pytest.mark.parametrize(
    ("name", "config", "context"),
    [
        ("XLNetLMHeadModel", {}, None),
        ("BloomForCausalLM", {}, None),
        ("MambaForCausalLM", {}, None),
        ("GPT2LMHeadModel", {}, 128),
        ("MptForCausalLM", {"max_seq_len": 96, "d_model": 64, "n_layers": 2, "n_heads": 4}, 96),
        ("RobertaForCausalLM", {}, 128),  # 130 positions; 0 and 1 are for padding
        ("OPTForCausalLM", {}, 128),
        ("BartForCausalLM", {}, 128),
        (
            "WhisperForCausalLM",
            {
                **{"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4},
                **{"decoder_ffn_dim": 128, "encoder_layers": 1, "max_target_positions": 96},
            },
            96,
        ),
        ("GPTNeoXForCausalLM", {"max_position_embeddings": 0}, None),
    ],
)
def test_a_text_of_the_model_s_maximum_length_is_read_and_a_longer_one_is_refused(
    name: str, config: dict[str, Any], context: int | None, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name, **config)
    assert context_of(decoder_of(model)) == context
    if context is None:
        assert read(model, byte_tokenizer, ["x" * 300], layers=0).isfinite().all()
        return
    assert read(model, byte_tokenizer, ["x" * (context - 1)], layers=0).isfinite().all()
    with pytest.raises(ValueError, match=re.escape(f"{context + 1} tokens, and the model's")):
        read(model, byte_tokenizer, ["x" * context], layers=0)
