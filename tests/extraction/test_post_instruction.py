"""The post-instruction tokens: found in a template, read, and steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from example_data import LLAMA_3, LLAMA_3_SUFFIX, THINKING
from transformers import PreTrainedTokenizerFast

import faststeer
from faststeer import FaststeerWarning, SteeringVector, diagnostics
from faststeer.data import InChat, chat_text, post_instruction
from faststeer.data.chat import ChatFormat
from faststeer.data.post_instruction import post_instruction_ids

PAIRS = [("Praise me", "Insult me"), ("Be so kind", "Be rude"), ("Yes?", "No!")]
QUIET = {"add_special_tokens": False, "progress": False}


def tokenizer_with(folder: Path, template: str) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(sorted({*LLAMA_3_SUFFIX, "<think>", "<|end|>", "<|assistant|>"}))
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def llama(tiny_folder: Path) -> Any:
    return tokenizer_with(tiny_folder, LLAMA_3)


def directions(vector: SteeringVector) -> torch.Tensor:
    return torch.stack([vector.directions[layer] for layer in vector.layers])


def test_they_are_the_template_s_tokens_behind_the_instruction(
    llama: Any, demo_tokenizer: Any
) -> None:
    found = post_instruction_ids(ChatFormat(llama))
    assert llama.convert_ids_to_tokens(found) == LLAMA_3_SUFFIX
    assert post_instruction(llama) == range(-5, 0)
    text = demo_tokenizer.decode(post_instruction_ids(ChatFormat(demo_tokenizer)))
    assert text == "<|im_end|>\n<|im_start|>assistant\n"
    assert post_instruction(demo_tokenizer, system="Be brief.") == range(-6, 0)  # ass, istant


def test_a_thinking_switch_changes_the_tokens(tiny_folder: Path) -> None:
    tokenizer = tokenizer_with(tiny_folder, THINKING)
    ids = post_instruction_ids(ChatFormat(tokenizer, None, {"enable_thinking": False}))
    assert tokenizer.decode(ids) == "<|end|><|assistant|><think></think>"
    assert tokenizer.decode(post_instruction_ids(ChatFormat(tokenizer))) == "<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content }}", "the chat template ends in the instruction"),
        ("{{ messages | length }} messages", "equal texts for different instructions"),
    ],
)
def test_a_template_without_such_tokens_is_refused(
    tiny_folder: Path, template: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        post_instruction(tokenizer_with(tiny_folder, template))


def test_the_mean_over_the_tokens_is_read(llama: Any, tiny_model: Any) -> None:
    texts = [chat_text(text, llama) for text, _ in PAIRS]
    found = faststeer.activations(
        tiny_model, llama, texts, read_token="post_instruction", keep_sinks=True, **QUIET
    )
    single = [
        faststeer.activations(tiny_model, llama, texts, read_token=place, **QUIET)
        for place in post_instruction(llama)
    ]
    assert len(single) == 5
    assert not torch.allclose(single[0], single[-1], atol=1e-3)
    torch.testing.assert_close(found, torch.stack(single).mean(0), atol=1e-5, rtol=1e-5)


def test_of_an_answered_conversation_the_tokens_before_the_last_answer_are_read(
    llama: Any, tiny_model: Any
) -> None:
    def answered(text: str) -> Any:
        first = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        last = [{"role": "user", "content": text}, {"role": "assistant", "content": "As you like"}]
        return [*first, *last]

    def asked(text: str) -> Any:
        return answered(text)[:-1]

    vectors = [
        faststeer.extract(
            tiny_model,
            llama,
            InChat([(form(a), form(b)) for a, b in PAIRS], llama),
            read_token="post_instruction",
            keep_sinks=True,  # which positions are sinks depends on all of a text
            **QUIET,
        )
        for form in (answered, asked)
    ]
    assert directions(vectors[0]).norm() > 0.1
    torch.testing.assert_close(*map(directions, vectors), atol=1e-4, rtol=1e-4)
    assert vectors[0].metadata["read_token"] == "post_instruction"


def test_the_template_s_arguments_are_taken_from_the_pairs_and_warned_of(
    tiny_folder: Path, tiny_model: Any
) -> None:
    tokenizer = tokenizer_with(tiny_folder, THINKING)
    silent = InChat(PAIRS, tokenizer, template={"enable_thinking": False})
    how = {"read_token": "post_instruction", **QUIET}
    made = faststeer.extract(tiny_model, tokenizer, silent, **how)
    by_range = faststeer.extract(
        tiny_model,
        tokenizer,
        silent,
        read_token=post_instruction(tokenizer, template={"enable_thinking": False}),
        **QUIET,
    )
    torch.testing.assert_close(directions(made), directions(by_range))
    thinks = InChat(PAIRS, tokenizer)
    other = faststeer.extract(tiny_model, tokenizer, thinks, **how)
    assert not torch.allclose(directions(made), directions(other), atol=1e-3)
    assert other.metadata["template"] == ChatFormat(tokenizer).digest
    message = "the same with another system prompt or other arguments"
    with pytest.warns(FaststeerWarning, match=message):
        diagnostics.separability(tiny_model, tokenizer, made, thinks, **QUIET)
    own = diagnostics.separability(tiny_model, tokenizer, made, silent, **QUIET)
    assert own.keys() == made.directions.keys()


def test_texts_outside_the_template_and_tokenizers_without_one_are_refused(
    llama: Any, tiny_model: Any, byte_tokenizer: Any
) -> None:
    how = {"read_token": "post_instruction", **QUIET}
    with pytest.raises(ValueError, match=r"positive text .*does not hold the chat template's ids"):
        faststeer.extract(tiny_model, llama, [("plain", "texts")], **how)
    with pytest.raises(ValueError, match="needs a tokenizer with a chat template"):
        faststeer.extract(tiny_model, byte_tokenizer, [("plain", "texts")], **how)
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(ValueError, match=r"chat messages become texts by faststeer\.data"):
        faststeer.extract(tiny_model, llama, [(messages, messages)], **QUIET)


def test_the_range_steers_these_tokens_alone(llama: Any, tiny_model: Any) -> None:
    ids = llama(chat_text("Praise me", llama), add_special_tokens=False)["input_ids"]
    vector = SteeringVector("v", {1: torch.full((64,), 5.0)})
    states = []
    with faststeer.patch(tiny_model) as patched, torch.no_grad():
        for steered in (False, True):
            if steered:
                patched.steer(vector, layers=1, positions=post_instruction(llama))
            output = tiny_model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            states.append(output.hidden_states[2][0])
    moved = (states[1] - states[0]).norm(dim=1) > 1
    assert moved.nonzero()[:, 0].tolist() == list(range(len(ids) - 5, len(ids)))


def test_steering_by_name_points_to_the_function_that_knows_the_template(tiny_model: Any) -> None:
    vector = SteeringVector("v", {1: torch.ones(64)})
    with (
        faststeer.patch(tiny_model) as patched,
        pytest.raises(ValueError, match=r"give faststeer.data.post_instruction\(tokenizer\)"),
    ):
        patched.steer(vector, layers=1, positions="post_instruction")
