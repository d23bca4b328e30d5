"""Attention sinks: positions of huge norm are left out of means, counted and reported."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from residual_streams import residual_streams, row_error
from tiny import ByteTokenizer, MakeTiny
from tiny_families import MORE
from transformers import LlamaForCausalLM

import faststeer
from faststeer import FaststeerWarning, SteeringVector
from faststeer.data.shipped import Behaviour
from faststeer.models import load

PAIRS = [
    ("a calm day at sea", "a storm on the ocean, at night"),
    ("she smiled", "he frowned and left the room"),
    ("the soup was good", "the soup was cold, and late"),
]
READ: list[Any] = [-1, -2, slice(-4, None), "all", "answer"]


def plant_sink(
    model: Any, layer: int, token: int = ByteTokenizer.bos_token_id, module: str = "mlp"
) -> None:
    """Make the layer add 1,000 to each feature of `token`, so that later layers have it too."""
    seen: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    def enlarge(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 1000.0 * (seen[-1] == token)[..., None]

    getattr(model.model.layers[layer], module).register_forward_hook(enlarge)


def extract(model: Any, tokenizer: Any, pairs: Any = PAIRS, **options: Any) -> SteeringVector:
    return faststeer.extract(model, tokenizer, pairs, progress=False, **options)


def expected(model: Any, tokenizer: Any, layer: int, start: int) -> torch.Tensor:
    """Return the difference of the means of positions from `start` on, each text run alone."""
    total = torch.zeros(64, dtype=torch.float64)
    for pair in PAIRS:
        for sign, text in zip((1, -1), pair, strict=True):
            stream = residual_streams(model, tokenizer(text)["input_ids"])["resid_post"]
            total += sign * stream[layer, start:].double().mean(0) / len(PAIRS)
    return total


@pytest.mark.parametrize("read_token", ["all", slice(0, 8)])
def test_a_sink_is_left_out_of_the_mean_at_the_layers_where_it_is_one(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, read_token: Any
) -> None:
    plant_sink(tiny_model, 2)
    with pytest.warns(FaststeerWarning, match="attention sinks") as caught:
        vector = extract(tiny_model, byte_tokenizer, read_token=read_token, batch_size=4)
    [message] = [str(w.message) for w in caught if "sinks" in str(w.message)]
    assert message == (
        "attention sinks: 6 positions of 6 of 6 texts, with norms of over 10 times the median of "
        "their text at layers 2-3, were left out of the means there"
    )
    assert vector.metadata["sinks_left_out"] == {
        "positions": 6,
        "texts": 6,
        "layers": {"2": 6, "3": 6},
    }
    if read_token == "all":
        for layer in range(4):
            wanted = expected(tiny_model, byte_tokenizer, layer, int(layer >= 2))
            assert row_error(vector.directions[layer][None], wanted[None]) < 1e-5


def test_keep_sinks_averages_all_positions(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    plant_sink(tiny_model, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "attention sinks")
        vector = extract(tiny_model, byte_tokenizer, read_token="all", keep_sinks=True)
    wanted = expected(tiny_model, byte_tokenizer, 3, 0)
    assert row_error(vector.directions[3][None], wanted[None]) < 1e-5
    assert vector.metadata["keep_sinks"] is True


@pytest.mark.parametrize("shared", ["", "one long beginning that both texts of a pair share: "])
def test_a_single_read_token_that_is_a_sink_is_read_and_reported(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, shared: str
) -> None:
    pairs = [(shared + "abc!", shared + "abd?"), (shared + "xyz.", shared + "xyw;")]
    bare = extract(tiny_model, byte_tokenizer, pairs)
    plant_sink(tiny_model, 3, token=ord("!"))
    with pytest.warns(FaststeerWarning, match="of 1 of 4 texts nothing was read but") as caught:
        vector = extract(tiny_model, byte_tokenizer, pairs)
    assert not any("left out" in str(w.message) for w in caught)
    assert vector.metadata["sinks_read"] == {"texts": 1, "layers": {"3": 1}}
    assert torch.equal(vector.directions[2], bare.directions[2])
    assert float((vector.directions[3] - bare.directions[3]).norm()) > 1000


def test_texts_of_which_only_sinks_are_read_are_reported(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    plant_sink(tiny_model, 1)
    with pytest.warns(FaststeerWarning, match="of 6 of 6 texts nothing was read but positions"):
        vector = extract(tiny_model, byte_tokenizer, read_token=slice(0, 1))
    assert vector.metadata["sinks_read"]["texts"] == 6
    assert "sinks_left_out" not in vector.metadata


def test_texts_of_a_single_token_are_reported(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    pairs = [("a", "b"), ("c", "de")]
    with pytest.warns(FaststeerWarning, match="attention sinks: 3 texts have a single token"):
        extract(tiny_model, byte_tokenizer, pairs, add_special_tokens=False)


def test_a_sink_in_an_answer_is_judged_by_the_whole_text(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    beginning = "a question that both texts of a pair share, and that is computed once: "
    pairs = [(beginning + "!!?", beginning + "no"), (beginning + "yes", beginning + "nil")]
    plant_sink(tiny_model, 2, token=ord("!"))
    with pytest.warns(FaststeerWarning, match="sinks: 2 positions of 1 of 4 texts"):
        vector = extract(tiny_model, byte_tokenizer, pairs, read_token="answer")
    assert float(vector.directions[3].norm()) < 100


@pytest.fixture(scope="module")
def demo() -> Any:
    return load("demo")


def growth(vector: SteeringVector) -> float:
    """Return the largest ratio of the norms of neighbouring layers, either way, from layer 4 on."""
    norms = torch.tensor(list(vector.norms().values()))[4:]
    return float((norms[1:] / norms[:-1]).log().abs().max().exp())


@pytest.mark.parametrize("read_token", READ, ids=str)
def test_norms_grow_smoothly_over_the_layers_of_a_real_model(demo: Any, read_token: Any) -> None:
    pairs = Behaviour.shipped("sentiment").pairs[:12]
    vector = extract(demo.model, demo.tokenizer, pairs, read_token=read_token)
    assert growth(vector) < 2


@pytest.mark.parametrize("read_token", READ, ids=str)
def test_norms_grow_smoothly_over_the_layers_of_gemma(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer, read_token: Any
) -> None:
    kinds = MORE["Gemma3"]["layer_types"] * 2
    model = make_tiny(family="Gemma3", **MORE["Gemma3"] | {"layers": 8, "layer_types": kinds})
    plant_sink(model, 5, module="post_feedforward_layernorm")
    assert growth(extract(model, byte_tokenizer, read_token=read_token)) < 2
