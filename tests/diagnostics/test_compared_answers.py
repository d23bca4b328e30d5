"""The two answers that `compare` generates or is given, and where they part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from explicit_runs import answers_of
from plain_hooks import random_vector
from transformers import AutoTokenizer, LlamaForCausalLM

import faststeer
from faststeer import diagnostics
from faststeer.diagnostics.token_text import token_text

VECTOR = random_vector("v", range(4))
PROMPT = "naïve 🙂 hotel"


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


def test_the_first_answer_is_the_unsteered_one_and_the_second_the_steered_one(
    tiny_model: LlamaForCausalLM, plain: LlamaForCausalLM, tokenizer
) -> None:
    patched = faststeer.patch(tiny_model)
    handle = patched.steer(VECTOR, 3.0, layers=1)
    found = diagnostics.compare(tiny_model, tokenizer, PROMPT, max_new_tokens=8)
    ids = tokenizer(PROMPT)["input_ids"]
    steered = answers_of(patched, tiny_model, ids, {"v": 3.0}, 8)
    unsteered = plain.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    unsteered = unsteered[0, len(ids) :].tolist()
    assert steered != unsteered
    assert [text.name for text in found] == ["prompt", "unsteered answer", "steered answer"]
    assert [text.ids for text in found] == [ids, unsteered, steered]
    assert [text.start for text in found] == [0, len(ids), len(ids)]
    assert (handle.coefficient, patched.plan.rows, tiny_model.training) == (3.0, [], False)


def test_a_given_pair_of_answers_is_compared_as_the_generated_one(
    tiny_model: LlamaForCausalLM, tokenizer
) -> None:
    faststeer.patch(tiny_model).steer(VECTOR, 3.0, layers=1)
    found = diagnostics.compare(tiny_model, tokenizer, PROMPT, max_new_tokens=8)
    ids = tuple(answer.ids for answer in found.answers or ())
    again = diagnostics.compare(tiny_model, tokenizer, PROMPT, answers=ids)
    assert again == found
    swapped = diagnostics.compare(tiny_model, tokenizer, PROMPT, answers=ids[::-1])
    assert [answer.ids for answer in swapped.answers or ()] == list(ids[::-1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_answer_that_ends_early_is_as_if_compared_alone(
    tiny_model: LlamaForCausalLM, tokenizer, side: str
) -> None:
    tokenizer.padding_side = side
    patched = faststeer.patch(tiny_model)
    patched.steer(VECTOR, 3.0, layers=1, positions="generated")
    first = diagnostics.compare(tiny_model, tokenizer, PROMPT, max_new_tokens=8)
    unsteered, steered = (answer.ids for answer in first.answers or ())
    end = next(n for n in range(1, 8) if steered[n] not in {*unsteered, *steered[:n]})
    tiny_model.generation_config.eos_token_id = [510, steered[end]]
    found = diagnostics.compare(tiny_model, tokenizer, PROMPT, max_new_tokens=8)
    assert [answer.ids for answer in found.answers or ()] == [unsteered, steered[: end + 1]]
    prefix = diagnostics.compare(tiny_model, tokenizer, PROMPT, answers=(steered[:2], steered[:2]))
    long = (first.answers or ())[1]
    short = (found.answers or ())[1]
    assert short.kl == pytest.approx(long.kl[: end + 1], rel=1e-4, abs=1e-6)
    assert (prefix.answers or ())[0].kl == pytest.approx(long.kl[:2], rel=1e-4, abs=1e-6)


def test_the_answers_part_at_the_first_token_that_differs(
    tiny_model: LlamaForCausalLM, tokenizer
) -> None:
    faststeer.patch(tiny_model).steer(VECTOR, 3.0, layers=1)

    def parting(one: list[int], two: list[int]) -> tuple[int | None, list[tuple[str, int]]]:
        found = diagnostics.compare(tiny_model, tokenizer, "ab", answers=(one, two))
        marked = [(r["text"], r["position"]) for r in found.to_records() if r["parting"]]
        return found.parting, marked

    first, second = ("unsteered answer", 2), ("steered answer", 2)
    assert parting([5, 6, 7], [9, 6, 7]) == (0, [first, second])
    later = [(name, at + 2) for name, at in (first, second)]
    assert parting([5, 6, 7, 8], [5, 6, 9, 8]) == (2, later)
    assert parting([5, 6, 7], [5, 6]) == (2, [later[0]])
    assert parting([5, 6], [5, 6, 7]) == (2, [later[1]])
    assert parting([5, 6], [5, 6]) == (None, [])
    assert parting([], [5]) == (0, [second])


def test_the_tokens_at_the_parting_are_those_that_both_models_choose(
    tiny_model: LlamaForCausalLM, tokenizer
) -> None:
    faststeer.patch(tiny_model).steer(VECTOR, 3.0, layers=1)
    found = diagnostics.compare(tiny_model, tokenizer, PROMPT, max_new_tokens=8)
    at = found.parting
    assert at is not None
    assert found.next_at_parting is not None
    for answer, likeliest in zip(found.answers or (), found.next_at_parting, strict=True):
        assert likeliest[0].id == answer.ids[at]
        assert likeliest[0].text == token_text(tokenizer, answer.ids[at])
    same = diagnostics.compare(tiny_model, tokenizer, "ab", answers=([5], [5]))
    assert same.next_at_parting is None
