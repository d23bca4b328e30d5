"""Activations and vectors of any decoder are those of each text alone, whatever padding does to it.

Against states that plain hooks store, of one text per forward pass and without padding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from residual_streams import row_error
from tiny import ByteTokenizer
from torch import Tensor, nn
from unusual_decoders import BUILDABLE, SMALL, layers_of, stored_states, strange

import faststeer
from faststeer.models.text_calls import TextCalls, context_of, decoder_of

TEXTS = ["a", "some text", "a longer text, to be padded against", "zz", "text " * 12]
PAIRS = [("I love it", "I hate it, and more"), ("so good", "bad"), ("yes, it is", "no")]
CLOSE = 1e-5

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


def read(model: Any, tokenizer: Any, texts: list[str] = TEXTS, **options: Any) -> Tensor:
    return faststeer.activations(model, tokenizer, texts, progress=False, **options)


@pytest.mark.parametrize("name", BUILDABLE)
def test_the_last_token_of_padded_texts_is_that_of_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    alone = [stored_states(model, byte_tokenizer(text)["input_ids"]) for text in TEXTS]
    last = torch.stack([states[:, -1] for states in alone])
    before = torch.stack([states[:, -2] for states in alone])
    assert row_error(before, last) > 0.1  # another token would be seen
    assert row_error(read(model, byte_tokenizer), last) < CLOSE


@pytest.mark.parametrize("name", ["RobertaForCausalLM", "BartForCausalLM"])
def test_position_ids_or_left_padding_of_ours_would_have_been_wrong(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    ids = byte_tokenizer("some text")["input_ids"]
    right = stored_states(model, ids)[-1]
    decoder = decoder_of(model)
    with torch.no_grad():
        if name.startswith("Roberta"):
            given = {"input_ids": torch.tensor([ids]), "position_ids": torch.arange(len(ids))[None]}
        else:
            mask = torch.tensor([[0, 0] + [1] * len(ids)])
            given = {"input_ids": torch.tensor([[1, 1, *ids]]), "attention_mask": mask}
        wrong: Tensor = decoder(**given).last_hidden_state[0, -len(ids) :]
        own: Tensor = decoder(torch.tensor([ids])).last_hidden_state[0]
    assert row_error(wrong, own) > 0.05
    assert row_error(read(model, byte_tokenizer, ["some text", "a"])[0, -1], right[-1]) < CLOSE


@pytest.mark.parametrize("name", SMALL)
def test_several_tokens_and_the_second_to_last_are_those_of_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    alone = [stored_states(model, byte_tokenizer(text)["input_ids"]) for text in TEXTS]
    for read_token, expected in (
        (-2, [states[:, -2] for states in alone]),
        ("all", [states.mean(1) for states in alone]),
        (range(1, 3), [states[:, 1:3].mean(1) for states in alone]),
    ):
        found = read(model, byte_tokenizer, read_token=read_token)
        assert row_error(found, torch.stack(expected)) < CLOSE, read_token


@pytest.mark.parametrize("name", SMALL)
def test_a_vector_is_the_mean_difference_of_states_stored_of_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    sides = [
        torch.stack(
            [stored_states(model, byte_tokenizer(pair[side])["input_ids"])[:, -1] for pair in PAIRS]
        )
        for side in (0, 1)
    ]
    expected = (sides[0] - sides[1]).mean(0)
    vector = faststeer.extract(model, byte_tokenizer, PAIRS, progress=False)
    found = torch.stack([vector.directions[layer] for layer in vector.layers])
    assert row_error(found, expected) < 1e-4


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("Rwkv")])
def test_what_steers_some_tokens_is_read_as_in_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    vector = faststeer.SteeringVector("v", {0: torch.ones(64)})
    stock = read(model, byte_tokenizer, layers=[1, 2])
    with faststeer.patch(model) as patched:
        if patched.signature.unknown:  # RecurrentGemma of transformers 4.57
            with pytest.raises(ValueError, match="is known to carry its past"):
                patched.steer(vector, 2.0, positions=range(-2, 0))
            return
        patched.steer(vector, 2.0, positions=range(-2, 0))
        alone = torch.cat([read(model, byte_tokenizer, [text], layers=[1, 2]) for text in TEXTS])
        found = read(model, byte_tokenizer, layers=[1, 2])
    assert row_error(stock, alone) > 0.05
    assert row_error(found, alone) < CLOSE


@pytest.mark.parametrize("name", SMALL)
def test_the_input_of_a_layer_is_the_output_of_the_one_before(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    after = read(model, byte_tokenizer, layers=[0, 1])
    before = read(model, byte_tokenizer, layers=[1, 2], site="resid_pre")
    assert torch.equal(before, after)


def test_as_many_texts_as_tokens_are_told_apart_in_xlnet(byte_tokenizer: ByteTokenizer) -> None:
    model = strange("XLNetLMHeadModel")
    texts = ["abc", "xyz", "123", "pqr"]  # four tokens each: [T, B, H] is [4, 4, H]
    alone = [stored_states(model, byte_tokenizer(text)["input_ids"]) for text in texts]
    last = torch.stack([states[:, -1] for states in alone])
    assert row_error(torch.stack(list(alone[-1].unbind(1))), last) > 0.1
    assert row_error(read(model, byte_tokenizer, texts), last) < CLOSE


class MixesAll(transformers.PreTrainedModel):
    """Each layer adds the mean over all columns, padding too, as a decoder that ignores masks."""

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


@pytest.fixture
def mixing() -> MixesAll:
    torch.manual_seed(0)
    return MixesAll().eval()


def test_texts_of_a_model_that_padding_changes_share_a_forward_with_their_equals_alone(
    mixing: MixesAll, byte_tokenizer: ByteTokenizer
) -> None:
    texts = ["ab", "a", "xy", "longer text", "b"]
    alone = torch.cat([read(mixing, byte_tokenizer, [text]) for text in texts])
    for read_token in (-1, "all"):
        alone = torch.cat([read(mixing, byte_tokenizer, [t], read_token=read_token) for t in texts])
        mixing.lengths.clear()
        found = read(mixing, byte_tokenizer, texts, read_token=read_token)
        assert row_error(found, alone) < CLOSE
        # One text alone and beside padding, to find out; then lengths 2, 3 and 12.
        assert mixing.lengths[-3:] == [(2,), (3,), (12,)]
        assert sum(len(lengths) > 1 for lengths in mixing.lengths) == 1


def test_what_padding_does_is_measured_once_and_of_known_families_never(
    tiny_model: Any, byte_tokenizer: ByteTokenizer
) -> None:
    texts = [f"{'x' * (n % 7)}{n}" for n in range(40)]
    for model, more in ((tiny_model, 0), (strange("GPT2LMHeadModel"), 4)):
        calls: list[int] = []
        decoder = decoder_of(model)
        decoder.register_forward_pre_hook(lambda *given, calls=calls: calls.append(1))
        read(model, byte_tokenizer, texts, batch_size=4)
        # How often layers run, texts of two lengths alone, and both beside padding.
        assert len(calls) == 10 + more


@pytest.mark.parametrize(
    ("dtype", "padding"), [(torch.float32, True), (torch.bfloat16, True), (torch.float16, True)]
)
def test_rounding_is_not_taken_for_an_effect_of_padding(
    dtype: torch.dtype, padding: bool, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange("GPT2LMHeadModel").to(dtype)
    calls = TextCalls(model)
    calls.groups([byte_tokenizer(text)["input_ids"] for text in TEXTS], None)
    assert calls.pads is padding


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
def test_several_parallel_streams_or_tokens_of_its_own_are_refused_by_class_and_shape(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name, **PARALLEL[name])
    kind = type(decoder_of(model)).__name__
    with pytest.raises(ValueError, match=rf"the layers of a {kind} hand on \[\d+, \d+, .*64\], "):
        read(model, byte_tokenizer)
    assert "_faststeer" not in decoder_of(model).__dict__


class Looped(MixesAll):
    """Runs its second layer three times."""

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


def test_layers_that_do_not_run_on_text_are_refused_by_their_numbers(
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


def test_a_decoder_of_several_codebooks_reads_no_texts(byte_tokenizer: ByteTokenizer) -> None:
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
        ("RobertaForCausalLM", {}, 128),  # 130 positions, of which 0 and 1 are for padding
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
def test_the_longest_text_that_a_model_has_positions_for_is_read_and_one_more_token_is_refused(
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
