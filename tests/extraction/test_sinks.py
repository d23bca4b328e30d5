"""Attention sinks: positions of huge norm are left out of means, counted and reported."""

from __future__ import annotations

import os
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
from faststeer.extraction.selection import SinkCounts
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
        "attention sinks: 6 positions of 6 of 6 texts, with norms of over 5 times the median of "
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
@pytest.mark.parametrize("method", ["mean_difference", "pca_diff"])
def test_a_pair_that_is_read_at_a_sink_is_left_out_where_others_are_not(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, shared: str, method: str
) -> None:
    ends = [("abc!", "abd?"), ("xyz.", "xyw;"), ("one.", "two;"), ("red?", "tan.")]
    pairs = [(shared + one, shared + other) for one, other in ends]
    bare = extract(tiny_model, byte_tokenizer, pairs, method=method)
    plant_sink(tiny_model, 3, token=ord("!"))
    with pytest.warns(FaststeerWarning, match="attention sinks") as caught:
        vector = extract(tiny_model, byte_tokenizer, pairs, method=method, batch_size=2)
    [message] = [str(w.message) for w in caught if "sinks" in str(w.message)]
    assert message == (
        "attention sinks: of 1 of 8 texts nothing was read but positions with norms of over 5 "
        "times the median of their text at layers 3; they were left out of the directions at "
        "layers 3, each with its pair if it has one"
    )
    assert vector.metadata["sinks_read"] == {"texts": 1, "layers": {"3": 1}}
    assert vector.metadata["sinks_dropped"] == {"3": 1}
    others = extract(tiny_model, byte_tokenizer, pairs[1:], method=method)
    for layer, wanted in ((2, bare), (3, others)):
        error = row_error(vector.directions[layer][None], wanted.directions[layer][None])
        assert error < 1e-4
    kept = extract(tiny_model, byte_tokenizer, pairs, method=method, keep_sinks=True)
    assert row_error(kept.directions[3][None], others.directions[3][None]) > 0.1


def test_a_text_of_a_side_is_left_out_alone(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    positive, negative = ["abc!", "xyz.", "one."], ["abd?", "xyw;", "tan."]
    sides: dict[str, Any] = {"pairs": None, "negative": negative}
    plant_sink(tiny_model, 3, token=ord("!"))
    with pytest.warns(FaststeerWarning, match="attention sinks"):
        vector = extract(tiny_model, byte_tokenizer, positive=positive, **sides)
    others = extract(tiny_model, byte_tokenizer, positive=positive[1:], **sides)
    assert vector.metadata["sinks_dropped"] == {"3": 1}
    assert row_error(vector.directions[3][None], others.directions[3][None]) < 1e-4


def test_where_half_of_the_pairs_are_read_at_sinks_all_are(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    pairs = [("abc!", "abd?"), ("xyz.", "xyw;")]
    plant_sink(tiny_model, 3, token=ord("!"))
    with pytest.warns(FaststeerWarning, match="they were read as they are at layers 3"):
        vector = extract(tiny_model, byte_tokenizer, pairs)
    assert vector.metadata["sinks_read"] == {"texts": 1, "layers": {"3": 1}}
    assert "sinks_dropped" not in vector.metadata
    assert float(vector.directions[3].norm()) > 1000


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


def test_texts_that_are_read_in_groups_keep_their_numbers() -> None:
    sinks = SinkCounts([0, 1], torch.device("cpu"))
    left_out = torch.zeros(2, 2, 3, dtype=torch.bool)
    left_out[1, 0, 2] = True
    only = torch.tensor([[True, False], [False, False]])
    sinks.begin_batch()
    with sinks.recording() as recorded:
        sinks.add(left_out, only, [2, 0])
        sinks.add(left_out[:, :1], torch.tensor([[False], [True]]), [1])
    assert sinks.only_sinks(3).tolist() == [[False, False, True], [False, True, False]]
    assert recorded.of_layer(0)[1].tolist() == [2]
    assert recorded.of_layer(1)[0].tolist() == [[2, 2], [1, 2]]
    sinks.begin_batch()
    assert not sinks.only_sinks(3).any()


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


@pytest.fixture(scope="module")
def qwen() -> Any:
    folder = os.environ.get("FASTSTEER_QWEN")
    if folder is None:
        pytest.skip("FASTSTEER_QWEN names no folder of Qwen2.5-Coder-0.5B-Instruct")
    return load(folder)


@pytest.mark.parametrize("read_token", READ, ids=str)
def test_norms_grow_smoothly_over_the_layers_of_qwen(qwen: Any, read_token: Any) -> None:
    pairs = Behaviour.shipped("sentiment").pairs[:12]
    vector = extract(qwen.model, qwen.tokenizer, pairs, read_token=read_token)
    assert growth(vector) < 2
    if read_token == -1:  # a full stop of 6 times the median's norm
        assert vector.metadata["sinks_dropped"]["5"] == 1
        kept = extract(qwen.model, qwen.tokenizer, pairs, read_token=-1, keep_sinks=True)
        assert growth(kept) > 6


@pytest.mark.parametrize("read_token", READ, ids=str)
def test_norms_grow_smoothly_over_the_layers_of_gemma(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer, read_token: Any
) -> None:
    kinds = MORE["Gemma3"]["layer_types"] * 2
    model = make_tiny(family="Gemma3", **MORE["Gemma3"] | {"layers": 8, "layer_types": kinds})
    plant_sink(model, 5, module="post_feedforward_layernorm")
    assert growth(extract(model, byte_tokenizer, read_token=read_token)) < 2
