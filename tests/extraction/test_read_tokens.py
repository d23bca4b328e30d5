"""The tokens that are read; a prefix shared by a pair is computed exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from residual_streams import SITES, residual_streams, row_error
from tiny import ByteTokenizer, MakeTiny
from torch import Tensor
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

import faststeer
from faststeer import SteeringVector

# One pair shares nearly all tokens, one a prefix of any length, and one text is a prefix.
PAIRS = [
    ("a question that is long: (A", "a question that is long: (B"),
    ("another question: yes", "another question: no"),
    ("the same beginning", "the same beginning too"),
    ("short: 1", "short: 2"),
]


def extract(model: Any, tokenizer: Any, pairs: Any = PAIRS, **options: Any) -> Tensor:
    vector = faststeer.extract(model, tokenizer, pairs, progress=False, **options)
    return torch.stack([vector.directions[layer] for layer in vector.layers])


def expected(
    model: Any, tokenizer: Any, site: str, chosen: Callable[[int, int], slice], pairs: Any = PAIRS
) -> Tensor:
    """Return the mean difference of each text's mean over tokens, each text run alone."""
    total = torch.zeros(len(model.model.layers), 64, dtype=torch.float64)
    for pair in pairs:
        ids = [tokenizer(text)["input_ids"] for text in pair]
        both = enumerate(zip(*ids, strict=False))
        shared = next((n for n, (a, b) in both if a != b), min(map(len, ids)))
        for sign, own in zip((1, -1), ids, strict=True):
            stream = residual_streams(model, own)[site][:, chosen(shared, len(own))]
            total += sign * stream.double().mean(1) / len(pairs)
    return total


def lengths(model: Any) -> list[tuple[int, int]]:
    """Return a list that collects rows and tokens of every later forward pass."""
    found: list[tuple[int, int]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    return found


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("read_token", [-1, -2])
def test_a_pair_s_shared_prefix_is_computed_once_with_the_same_result(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str, read_token: int
) -> None:
    one = slice(read_token, read_token + 1 or None)
    wanted = expected(tiny_model, byte_tokenizer, site, lambda shared, length: one)
    forwards = lengths(tiny_model)
    found = extract(tiny_model, byte_tokenizer, site=site, read_token=read_token, layers=[1, 3])
    assert row_error(found, wanted[[1, 3]]) < 1e-5
    # The longest prefix with BOS, without the read tokens; then the longest remainder.
    assert forwards == [(4, 28 + read_token), (8, 4 - read_token)]


def test_pairs_that_share_too_little_are_computed_whole(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    pairs = [("one thing", "that other"), ("a", "b")]
    wanted = expected(
        tiny_model, byte_tokenizer, "resid_post", lambda shared, length: slice(-1, None), pairs
    )
    forwards = lengths(tiny_model)
    assert row_error(extract(tiny_model, byte_tokenizer, pairs), wanted) < 1e-5
    assert forwards == [(4, 11)]


CHOSEN: dict[str, tuple[Any, Callable[[int, int], slice]]] = {
    "all": ("all", lambda shared, length: slice(None)),
    "range": (range(8, 11), lambda shared, length: slice(8, 11)),
    "range from the end": (range(-3, 0), lambda shared, length: slice(-3, None)),
    "function": (
        lambda positions, lengths: positions >= lengths // 2,
        lambda shared, length: slice(length // 2, None),
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_several_tokens_are_averaged_in_each_text(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, name: str
) -> None:
    read_token, chosen = CHOSEN[name]
    found = extract(tiny_model, byte_tokenizer, read_token=read_token, batch_size=6)
    assert row_error(found, expected(tiny_model, byte_tokenizer, "resid_post", chosen)) < 1e-5


@pytest.mark.parametrize("whole", [False, True])
def test_the_answer_begins_at_the_first_difference(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, whole: bool
) -> None:
    pairs = [PAIRS[0], PAIRS[1], PAIRS[3]]
    wanted = expected(
        tiny_model, byte_tokenizer, "resid_mid", lambda shared, length: slice(shared, None), pairs
    )
    forwards = lengths(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        if whole:  # a scope, although it steers nothing
            patched.steer(SteeringVector("v", {0: torch.ones(64)}), 0.0, positions="last")
        found = extract(tiny_model, byte_tokenizer, pairs, site="resid_mid", read_token="answer")
    assert row_error(found, wanted) < 1e-5
    assert len(forwards) == (1 if whole else 2)


def test_steering_is_read_equally_with_and_without_positions(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    vector = SteeringVector("v", {0: torch.randn(64, generator=torch.Generator().manual_seed(1))})
    with faststeer.patch(tiny_model) as patched:
        patched.steer(vector, 3.0)
        everywhere = extract(tiny_model, byte_tokenizer)
        patched.steer(vector, 3.0, positions="prompt")
        scoped = extract(tiny_model, byte_tokenizer)
        patched.clear()
        bare = extract(tiny_model, byte_tokenizer)
    assert row_error(scoped, everywhere) < 1e-5
    assert row_error(bare, everywhere) > 0.01


@pytest.mark.parametrize("window", [8, 200])
def test_sliding_attention_equals_that_of_whole_texts(
    byte_tokenizer: ByteTokenizer, window: int
) -> None:
    config = MistralConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    found = extract(model, byte_tokenizer)
    wanted = expected(model, byte_tokenizer, "resid_post", lambda shared, length: slice(-1, None))
    assert row_error(found, wanted) < 1e-5


def test_in_bfloat16_the_shared_prefix_changes_only_rounding(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer
) -> None:
    model = make_tiny(dtype=torch.bfloat16)
    forwards = lengths(model)
    found = extract(model, byte_tokenizer)
    assert len(forwards) == 2
    whole = extract(model, byte_tokenizer, batch_size=2, read_token=range(-1, 0))
    assert torch.cosine_similarity(found, whole).min() > 0.999
