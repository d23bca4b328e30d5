"""Confounds of the two sides are named with counts; pairs can be trimmed to equal last tokens."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import write_pairs
from tiny import ByteTokenizer
from transformers import LlamaForCausalLM

import faststeer
from faststeer import FaststeerWarning, SteeringVector, diagnostics
from faststeer.cli import main
from faststeer.extraction.lexical import held_out_auc
from faststeer.extraction.matching_ends import matched_ends
from faststeer.models import load

# Formal against casual: every positive ends in ".", three of the negatives do.
THINGS = [
    *("report", "letter", "budget", "table", "garden"),
    *("window", "meeting", "ticket", "dinner", "parcel"),
    *("invoice", "contract", "lecture", "journey", "concert"),
    *("bicycle", "kitchen", "library", "painting", "recipe"),
]
PAIRS = [
    (f"I should be most grateful to receive the {thing}.", f"hey gimme the {thing}" + "." * (n < 3))
    for n, thing in enumerate(THINGS)
]
ENDINGS = "positives end in '.' in 20 of 20 texts, negatives in 3 of 20"


def extract(model: Any, tokenizer: Any, pairs: Any = PAIRS, **options: Any) -> SteeringVector:
    return faststeer.extract(model, tokenizer, pairs, progress=False, **options)


def confounds_of(model: Any, tokenizer: Any, pairs: Any = PAIRS, **options: Any) -> list[str]:
    """Return the confounds that an extraction warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        extract(model, tokenizer, pairs, **options)
    found = [w for w in caught if str(w.message).startswith("confound: ")]
    assert all(w.category is FaststeerWarning and w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


def test_last_tokens_that_differ_between_the_sides_are_counted(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    found = confounds_of(tiny_model, byte_tokenizer)
    assert any(ENDINGS in message for message in found)
    assert found == diagnostics.confounds(tiny_model, byte_tokenizer, PAIRS)


def test_embeddings_of_the_read_tokens_that_separate_the_sides_are_lexical(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    found = confounds_of(tiny_model, byte_tokenizer, PAIRS[3:])  # no negative ends in "."
    message = "separate the sides with an AUC of 1.00, each text held out (17 positives, 17 "
    assert any(message in each for each in found)


def test_with_matched_endings_the_last_tokens_are_no_confound(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    found = confounds_of(tiny_model, byte_tokenizer, match_endings=True)
    assert not any(" end in " in message or "lexical" in message for message in found)
    matched = extract(tiny_model, byte_tokenizer, match_endings=True)
    assert matched.metadata["match_endings"] is True
    assert (matched.metadata["pairs"], matched.metadata["pairs_dropped"]) == (20, 0)
    by_hand = [
        pair if negative.endswith(".") else (positive[:-1], negative)
        for pair in PAIRS
        for positive, negative in [pair]
    ]
    same = extract(tiny_model, byte_tokenizer, by_hand)
    assert all(torch.equal(matched.directions[n], same.directions[n]) for n in range(4))


@pytest.mark.parametrize(
    ("first", "second", "shared", "expected"),
    [
        ("the end.", "an end", 0, ("the end", "an end")),
        ("some words, x", "other words", 0, ("some words", "other words")),
        ("b", "abc", 0, ("b", "ab")),
        ("same?", "fame?", 0, ("same?", "fame?")),
        (
            "Q: long question? yes",
            "Q: long question? no",
            18,
            None,
        ),  # nothing of the answer is left
        (
            "Q: is it? yes, so.",
            "Q: is it? oh no",
            10,
            ("Q: is it? yes, so", "Q: is it? oh no"),
        ),
        ("a beginning", "a beginning and more", 11, None),
    ],
)
def test_the_fewest_tokens_are_trimmed_and_half_of_each_answer_stays(
    first: str, second: str, shared: int, expected: tuple[str, str] | None
) -> None:
    found = matched_ends([list(first.encode()), list(second.encode())], shared)
    assert (found and tuple(bytes(ids).decode() for ids in found)) == expected


def test_pairs_that_cannot_be_matched_are_dropped_and_counted(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    unmatched = [("abc", "xyz"), ("def", "uvw")]
    with pytest.warns(FaststeerWarning, match=r"dropped 2 of 22 pairs.* \(pairs 20, 21, counted"):
        vector = extract(tiny_model, byte_tokenizer, PAIRS + unmatched, match_endings=True)
    counts = {key: vector.metadata[key] for key in ("pairs", "positives", "negatives")}
    assert counts == dict.fromkeys(counts, 20)
    assert vector.metadata["pairs_dropped"] == 2
    with pytest.raises(ValueError, match="match_endings dropped all 2 pairs"):
        extract(tiny_model, byte_tokenizer, unmatched, match_endings=True)
    with pytest.raises(ValueError, match="give pairs"):
        faststeer.extract(
            tiny_model, byte_tokenizer, positive=["a"], negative=["b"], match_endings=True
        )


def test_sides_of_unequal_length_are_counted(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    pairs = [("b" * (n + 6) + "!", "c" * (n + 2) + "!") for n in range(12)]
    message = "confound: positives are longer in 12 of 12 pairs: positives have 13.5 tokens on "
    assert message + "average, negatives 9.5" in confounds_of(tiny_model, byte_tokenizer, pairs)
    found = diagnostics.confounds(
        tiny_model,
        byte_tokenizer,
        positive=[positive * 2 for positive, _ in pairs],
        negative=[negative for _, negative in pairs],
    )
    assert "confound: positives have 26.0 tokens on average, negatives 9.5" in found


def test_sides_that_end_alike_and_are_as_long_have_no_confound(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    pairs = [(f"it is {n:02} cats!", f"it is {n:02} dogs!") for n in range(40)]
    assert confounds_of(tiny_model, byte_tokenizer, pairs) == []
    few = PAIRS[3:6]  # of so few, chance makes the same
    assert confounds_of(tiny_model, byte_tokenizer, few) == []


def test_a_read_token_of_the_chat_template_is_reported() -> None:
    demo = load("demo")
    pairs = [(f"I love {thing}", f"I hate {thing}") for thing in ("tea", "rain", "my new job")]
    in_chat = faststeer.data.InChat(pairs, demo.tokenizer)
    options: dict[str, Any] = {"add_special_tokens": False}
    found = diagnostics.confounds(demo.model, demo.tokenizer, in_chat, **options)
    assert found == [
        "confound: the token read, '\\n', belongs to the chat template and is the same in all 6 "
        "texts; read_token='answer' reads the tokens in which a pair differs"
    ]
    # The template's text, without what InChat states of it.
    assert diagnostics.confounds(demo.model, demo.tokenizer, list(in_chat), **options) == found
    assert diagnostics.confounds(demo.model, demo.tokenizer, [("a!", "b!"), ("c!", "d!")]) == []


def test_a_decoder_without_token_embeddings_is_reported_as_not_checked(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    def none() -> None:
        raise NotImplementedError  # as transformers does where a model has none

    message = (
        "confound: not checked is whether the embeddings of the tokens read separate the sides: a "
        "LlamaModel has no token embeddings"
    )
    assert message not in confounds_of(tiny_model, byte_tokenizer, PAIRS)
    tiny_model.model.get_input_embeddings = none
    assert message in confounds_of(tiny_model, byte_tokenizer, PAIRS)
    assert message not in confounds_of(tiny_model, byte_tokenizer, PAIRS[:9])  # never checked


def test_random_embeddings_are_not_separable_when_held_out() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 40, 500, generator=draw)
    for paired in (True, False):
        assert 0.2 < held_out_auc(rows[0], rows[1], paired) < 0.8
        assert held_out_auc(rows[0] + 1, rows[1], paired) == 1.0


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert not exit_.value.code


def test_the_commands_print_confounds_as_lines(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    source = f"--model {tiny_folder} --pairs pairs.jsonl"
    run(f"extract {source} --output v.safetensors", monkeypatch)
    assert f"\nwarning: confound: {ENDINGS}; " in "\n" + capsys.readouterr().err
    run(f"extract {source} --output matched.safetensors --match-endings", monkeypatch)
    assert " end in " not in capsys.readouterr().err
    assert SteeringVector.load(tmp_path / "matched.safetensors").metadata["match_endings"] is True
    run(f"inspect v.safetensors {source}", monkeypatch)
    assert f"\nconfound: {ENDINGS}; " in capsys.readouterr().out
