from __future__ import annotations

import re
from typing import Any

import pytest
from tiny import ByteTokenizer
from torch import nn
from transformers import LlamaForCausalLM

import faststeer

PAIR = [("good", "bad")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either pairs, or positive and negative texts"),
        ({"pairs": PAIR, "positive": ["a"]}, "give either pairs, or positive and negative texts"),
        (
            {"pairs": PAIR, "positive": ["a"], "negative": ["b"]},
            "give either pairs, or positive and negative texts",
        ),
        ({"positive": ["a"]}, "positive and negative texts go together; one of them is missing"),
        ({"negative": ["a"]}, "positive and negative texts go together; one of them is missing"),
        ({"pairs": []}, "got 0 positive and 0 negative texts; at least one of each is needed"),
        ({"pairs": iter(())}, "got 0 positive and 0 negative texts"),
        ({"positive": ["a", "b"], "negative": []}, "got 2 positive and 0 negative texts"),
        ({"positive": "one text", "negative": ["b"]}, "positive is a single text, 'one text'"),
        ({"positive": ["a"], "negative": "one text"}, "negative is a single text, 'one text'"),
        (
            {"pairs": [*PAIR, ("alone",)]},
            "pair 1 is ('alone',); expected (positive text, negative text)",
        ),
        ({"pairs": [("a", "b", "c")]}, "pair 0 is ('a', 'b', 'c')"),
        ({"pairs": [("a", None)]}, "pair 0 is ('a', None)"),
        ({"pairs": [3]}, "pair 0 is 3"),
        ({"pairs": ["ab"]}, "pair 0 is 'ab'"),
        ({"pairs": [{"positive": "a", "negative": "b"}]}, "pair 0 is {'positive': 'a'"),
        ({"pairs": PAIR, "layers": 4}, "layer 4 is out of range: the model has 0 to 3"),
        ({"pairs": PAIR, "layers": [0, -1]}, "layer -1 is out of range: the model has 0 to 3"),
        ({"pairs": PAIR, "layers": []}, "layers is empty; expected 'all', a number or several"),
        ({"pairs": PAIR, "layers": "last"}, "layers is 'last'; expected 'all'"),
        ({"pairs": PAIR, "method": "pca"}, "method 'pca' is unknown; expected one of mean_diff"),
        ({"pairs": PAIR, "site": "mlp"}, "site 'mlp' is unknown; expected one of resid_pre, "),
        ({"pairs": PAIR, "read_token": 0}, "read_token is 0; it counts from the end of each text"),
        ({"pairs": PAIR, "batch_size": 0}, "batch_size is 0; expected at least 1"),
        (
            {"pairs": [*PAIR, ("good", "x")], "read_token": -3},
            "pair 1: its negative text has 2 tokens, too few for read_token -3: 'x'",
        ),
        ({"pairs": [("", "bad")]}, "pair 0: its positive text is empty"),
        ({"pairs": [*PAIR, ("good", "")]}, "pair 1: its negative text is empty"),
        ({"positive": ["a", ""], "negative": ["b"]}, "positive text 1 is empty"),
        ({"positive": ["a"], "negative": [None]}, "negative text 0 is None; expected a text"),
        (
            {"pairs": [("good", "x" * 1024)]},
            "pair 0: its negative text has 1025 tokens, and the model's context is 1024; "
            "max_length=1024 truncates longer texts at their end",
        ),
        ({"pairs": [("same", "same")] * 3}, "the two texts of every pair have equal tokens"),
        (
            {"pairs": [("same, but", "same then")], "max_length": 4},
            "equal tokens (2 texts were truncated to max_length=4)",
        ),
        ({"pairs": PAIR, "method": "pca_diff"}, "got one pair; method 'pca_diff' needs at least 2"),
        (
            {"positive": ["a"], "negative": ["b"] * 3, "method": "logistic_probe"},
            "got one text of a side; method 'logistic_probe' needs at least 2",
        ),
        ({"pairs": PAIR * 2, "method": "pca_diff"}, "the pairs' differences do not vary"),
        (
            {"positive": ["a"], "negative": ["b"], "method": "pca_diff"},
            "method 'pca_diff' compares the texts of each pair; give pairs",
        ),
        ({"pairs": PAIR, "method": "mean_centring"}, "give positive= and negative="),
        (
            {"positive": ["a"], "negative": ["b"], "read_token": "answer"},
            "read_token 'answer' is where the two texts of a pair differ; give pairs",
        ),
        (
            {"pairs": [*PAIR, ("yes and more", "yes")], "read_token": "answer"},
            "pair 1: its negative text has no token at read_token='answer'",
        ),
        (
            {"positive": ["long enough"], "negative": ["b"], "read_token": range(4, 6)},
            "text 0 has no token at read_token=range(4, 6)",
        ),
        ({"pairs": PAIR, "read_token": "middle"}, "'middle'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_extract_refuses_with(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, given: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        faststeer.extract(tiny_model, byte_tokenizer, progress=False, **given)


def test_invalid_options_are_refused_before_the_model_runs(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    tiny_model.model.register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    wrong: list[dict[str, Any]] = [
        {"layers": 9},
        {"site": "mlp"},
        {"method": "pca"},
        {"read_token": 1},
        {"batch_size": 0},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=r"out of range|unknown|read_token|batch_size"):
            faststeer.extract(tiny_model, byte_tokenizer, PAIR, progress=False, **options)


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "got no texts; at least one is needed"), ("one", "texts is a single text, 'one'")],
)
def test_activations_refuses_with(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, texts: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        faststeer.activations(tiny_model, byte_tokenizer, texts, progress=False)


def test_a_model_that_cannot_be_patched_cannot_be_read(
    byte_tokenizer: ByteTokenizer,
) -> None:
    with pytest.raises(ValueError, match="Linear holds no decoder that can be patched"):
        faststeer.extract(nn.Linear(2, 2), byte_tokenizer, PAIR)
    with pytest.raises(TypeError, match="got a str; expected a transformers model"):
        faststeer.extract("demo", byte_tokenizer, PAIR)  # type: ignore[arg-type]


def test_texts_that_count_less_than_expected_are_reported_with_their_number(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    def warning_of(*pairs: tuple[str, str], **options: Any) -> str:
        with pytest.warns(faststeer.FaststeerWarning) as caught:
            faststeer.extract(tiny_model, byte_tokenizer, pairs, progress=False, **options)
        [warning] = caught
        assert warning.filename == __file__
        return str(warning.message)

    assert "got one pair: its vector contains every difference" in warning_of(*PAIR)
    equal = warning_of(*PAIR, ("x", "x"), ("y", "z"))
    assert "1 of 3 pairs have equal tokens: they are included" in equal
    cut = warning_of(*PAIR, ("x", "y"), max_length=4)
    assert "1 texts were longer than max_length=4 and were truncated" in cut


def test_hooks_after_the_read_site_are_reported(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    tiny_model.model.layers[1].register_forward_hook(lambda module, args, output: output + 1)
    for site, layers in (("resid_post", [0, 1]), ("resid_pre", [2])):
        with pytest.warns(faststeer.FaststeerWarning, match=r"layers \[1\] have forward hooks"):
            faststeer.activations(
                tiny_model, byte_tokenizer, ["a"], site=site, layers=layers, progress=False
            )
