"""Calls of decoders: the cache argument is found in signatures, or refused by name."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import faststeer
from faststeer.models.calls import DecoderSignature, hidden_argument, require_same_names

IDS = torch.tensor([[1, 2, 3]])


class Cache:
    """Cache that counts tokens like transformers' own."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


class Foreign:
    """Cache of a custom class that counts something else while it is empty."""

    def get_seq_length(self) -> int:
        return 7


def decoder(forward: Any, name: str = "Own") -> nn.Module:
    return type(name, (nn.Module,), {"forward": forward})()


def call(forward: Any, *args: Any, **kwargs: Any) -> Any:
    return DecoderSignature.of(decoder(forward)).bind(args, kwargs)


def columns_of(made: Any) -> list[int]:
    return made.columns(3, made.past_length(), IDS.device).tolist()


def today(self, input_ids=None, attention_mask=None, cache=None, use_cache=None, **kwargs): ...
def before(self, input_ids=None, attention_mask=None, past_key_values=None, **kwargs): ...
def recurrent(self, input_ids=None, attention_mask=None, state=None, use_cache=None): ...
def mamba(self, input_ids=None, cache_params=None, use_cache=None, cache_position=None): ...
def without(self, input_ids=None, attention_mask=None, labels=None, **kwargs): ...
def tomorrow(self, input_ids=None, attention_mask=None, memory=None, use_cache=None): ...


@pytest.mark.parametrize(("forward", "name"), [(today, "cache"), (before, "past_key_values")])
def test_the_past_is_counted_under_either_name_positionally_or_by_keyword(forward, name) -> None:
    assert call(forward, IDS).past_length() == 0
    assert call(forward, IDS, **{name: Cache(4)}).past_length() == 4
    assert call(forward, IDS, None, Cache(4)).past_length() == 4
    assert columns_of(call(forward, IDS, **{name: Cache(4)})) == [4, 5, 6]


def test_an_argument_that_the_class_renames_is_recognised() -> None:
    assert call(today, IDS, past_key_values=Cache(4)).past_length() == 4


def test_a_past_without_a_token_count_is_refused_once_it_is_passed() -> None:
    assert call(recurrent, IDS).past_length() == 0
    with pytest.raises(ValueError, match=r"a Own got a past, state= \(a list\), that does not co"):
        call(recurrent, IDS, state=[1]).past_length()
    # Mamba's cache_position counts something else in transformers 4.
    with pytest.raises(ValueError, match="cache_params="):
        call(mamba, IDS, cache_params=object(), cache_position=torch.arange(3)).past_length()
    assert columns_of(call(mamba, IDS, cache_position=torch.arange(4))) == [0, 1, 2]


def test_the_number_of_columns_takes_precedence_over_a_custom_cache_s_count() -> None:
    columns = torch.arange(3)
    found = call(before, IDS, past_key_values=Foreign(), cache_position=columns)
    assert int(found.past_length()) == 0
    assert found.columns(3, 0, IDS.device) is columns


def test_with_an_unknown_past_argument_dependent_features_are_refused_with_its_names() -> None:
    assert call(without, IDS).past_length() == 0
    signature = DecoderSignature.of(decoder(tomorrow, "NextModel"))
    assert signature.unknown == ("memory", "use_cache")
    with pytest.raises(ValueError, match=r"NextModel has seen, .* \(memory, use_cache may\)"):
        signature.bind((IDS,), {}).past_length()


def test_a_decoder_whose_past_is_unknown_steers_all_positions_and_refuses_others(
    tiny_model, plain, monkeypatch
) -> None:
    stock = type(tiny_model.model)
    own = stock.forward

    def renamed(self, input_ids=None, attention_mask=None, memory=None, use_cache=None, **more):
        kept = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
        return own(self, **kept, **more)

    monkeypatch.setattr(stock, "forward", renamed)
    vector = faststeer.SteeringVector("v", {1: torch.randn(64)})
    patched = faststeer.patch(tiny_model)
    for positions in ("generated", "last", range(2, 4)):
        with pytest.raises(ValueError, match=r"where 'v' acts depends on .* LlamaModel.*memory"):
            patched.steer(vector, positions=positions)
    with pytest.raises(ValueError, match="where 'v' acts"):
        patched.steer(vector.at(1, to=2), when=faststeer.when(vector, above=0.1), name="v")
    assert not patched.handles
    patched.steer(vector, 2.0)
    with torch.inference_mode():
        found = tiny_model(IDS).logits
        assert not torch.equal(found, plain(IDS).logits)
    with (
        pytest.raises(ValueError, match="which tokens count depends on"),
        faststeer.capture(tiny_model, positions="last"),
    ):
        pass


def test_a_mask_of_another_length_than_past_and_input_is_refused(tiny_model) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(faststeer.SteeringVector("v", {1: torch.randn(64)}), positions="last")
    with pytest.raises(ValueError, match="mask over 5 tokens, for 0 tokens of the past and 3"):
        tiny_model.model(IDS, attention_mask=torch.ones(1, 5, dtype=torch.long))


def test_hidden_states_are_found_even_if_not_the_first_argument() -> None:
    def reformer(self, prev_attn_output, hidden_states, attention_mask=None): ...
    def xlnet(self, output_h, output_g, attn_mask_h): ...

    assert hidden_argument(decoder(reformer)) == (1, "hidden_states")
    assert hidden_argument(decoder(xlnet)) == (0, "output_h")


def test_an_attention_with_another_past_argument_is_not_fused() -> None:
    def layer(self, hidden_states, attention_mask=None, cache=None, **kwargs): ...
    def attention(self, hidden_states, attention_mask=None, past_key_values=None, **kwargs): ...

    with pytest.raises(ValueError, match="a Layer takes cache, and its Attention does not"):
        require_same_names(decoder(layer, "Layer"), decoder(attention, "Attention"))


def test_a_steered_layer_passes_on_arguments_of_any_name(tiny_model) -> None:
    seen: list[dict[str, Any]] = []
    attention = tiny_model.model.layers[1].self_attn
    attention.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    with faststeer.patch(tiny_model), torch.inference_mode():
        tiny_model.model(IDS, some_new_argument=5)
    assert seen[0]["some_new_argument"] == 5


def test_layers_called_with_positional_arguments_are_fused() -> None:
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = transformers.MixtralForCausalLM(config).eval().model
    hidden = torch.randn(1, 3, 32)
    embeddings = model.rotary_emb(hidden, torch.arange(3)[None])
    layer = model.layers[0]
    with torch.inference_mode():
        expected = layer(hidden, embeddings)
        with faststeer.patch(model):
            torch.testing.assert_close(layer(hidden, embeddings), expected)
