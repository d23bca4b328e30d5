"""Chats with a system prompt and template arguments, as texts and in pairs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from example_data import LLAMA_3, TEMPLATE, THINKING, write_lines
from transformers import PreTrainedTokenizerFast

from faststeer import data
from faststeer.data.chat import ChatFormat
from faststeer.data.template_arguments import arguments_of

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def tokenizer_with(folder: Path, template: Any) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def thinking(tiny_folder: Path) -> Any:
    return tokenizer_with(tiny_folder, THINKING)


def test_a_system_prompt_and_template_arguments_reach_the_template(thinking: Any) -> None:
    assert data.chat_text("Hi", thinking) == "<|user|>Hi<|end|><|assistant|>"
    text = data.chat_text("Hi", thinking, system="Be brief.", template={"enable_thinking": False})
    assert text == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|><think></think>"
    pairs = [([USER, ANSWER], "Bye")]
    in_chat = data.InChat(pairs, thinking, system="S", template={"enable_thinking": False})
    begin = "<|system|>S<|end|><|user|>"
    answered = f"{begin}Hi<|end|><|assistant|>Hello"
    asked = f"{begin}Bye<|end|><|assistant|><think></think>"
    assert list(in_chat) == [(answered, asked)]


def test_an_empty_system_prompt_replaces_the_template_s_own(demo_tokenizer: Any) -> None:
    assert "named SmolLM" in data.chat_text("Hi", demo_tokenizer)
    text = data.chat_text("Hi", demo_tokenizer, system="")
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi")


def test_a_misspelt_template_argument_is_refused_with_those_that_are_taken(
    thinking: Any, demo_tokenizer: Any
) -> None:
    misspelt = {"enable_thinkng": False}
    ignored = thinking.apply_chat_template([USER], tokenize=False, **misspelt)
    assert ignored == "<|user|>Hi<|end|>"  # a template says nothing of it
    with pytest.raises(ValueError, match="no argument 'enable_thinkng'; it takes enable_thinking"):
        data.chat_text("Hi", thinking, template=misspelt)
    with pytest.raises(ValueError, match="takes no argument 'enable_thinking'; it takes none"):
        data.InChat([], demo_tokenizer, template={"enable_thinking": False})
    with pytest.raises(ValueError, match="takes no argument 'messages'"):
        data.chat_text("Hi", thinking, template={"messages": []})
    with pytest.raises(TypeError, match=r"template is a str; expected arguments"):
        data.chat_text("Hi", thinking, template="enable_thinking=False")
    with pytest.raises(TypeError, match="expected values that JSON can hold"):
        data.chat_text("Hi", thinking, template={"enable_thinking": object()})


def test_arguments_are_found_in_what_templates_are_written_with() -> None:
    assert arguments_of(LLAMA_3) == {"bos_token", "date_string"}  # read before it is set
    template = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'x' %}{% continue %}"
        "{% endif %}{% generation %}{{ m['content'] + suffix }}{% endgeneration %}{% endfor %}"
        "{% macro shown(x) %}{{ x }}{% endmacro %}{{ shown(strftime_now('%d')) }}"
    )
    assert arguments_of(template) == {"suffix"}
    with pytest.raises(ValueError, match="the chat template cannot be parsed"):
        arguments_of("{% if %}")


def test_of_several_templates_the_default_one_is_read(tiny_folder: Path) -> None:
    several = {"default": THINKING, "rag": "{{ messages }}{{ documents }}"}
    tokenizer = tokenizer_with(tiny_folder, several)
    text = data.chat_text("Hi", tokenizer, template={"enable_thinking": False})
    assert text.endswith("<think></think>")
    with pytest.raises(ValueError, match="takes no argument 'documents'"):
        data.chat_text("Hi", tokenizer, template={"documents": []})


def test_a_template_that_takes_no_system_prompt_is_reported_in_words(tiny_folder: Path) -> None:
    rejects = tokenizer_with(tiny_folder, TEMPLATE)
    message = "with a system prompt, the chat template does not take these .*: no system prompts"
    with pytest.raises(ValueError, match=message):
        data.InChat([("a", "b")], rejects, system="Be brief.")
    ignores = tokenizer_with(
        tiny_folder, "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="the chat template leaves out the system prompt"):
        data.chat_text("Hi", ignores, system="Be brief.")


def test_a_second_system_prompt_and_broken_messages_are_refused(thinking: Any) -> None:
    own = [{"role": "system", "content": "Mine"}, USER]
    assert "Mine" in data.chat_text(own, thinking)
    pairs = data.InChat([("a", "b"), (own, "b")], thinking, system="Yours")
    with pytest.raises(ValueError, match="pair 1: the messages begin with a system prompt of thei"):
        list(pairs)
    for broken in ([], [{"role": "user"}], ["Hi"], {"role": "user", "content": "Hi"}, 3):
        with pytest.raises(ValueError, match=r"got .*; expected a text, or a list of messages"):
            data.chat_text(broken, thinking)
    with pytest.raises(ValueError, match="the last message, the assistant's, is empty"):
        data.chat_text([USER, {"role": "assistant", "content": " "}], thinking)


def test_the_digest_covers_system_prompt_and_arguments_and_is_the_old_one_without(
    thinking: Any,
) -> None:
    plain = ChatFormat(thinking).digest
    assert plain == f"sha256:{hashlib.sha256(THINKING.encode()).hexdigest()[:16]}"
    formats = [
        ChatFormat(thinking, ""),
        ChatFormat(thinking, "a"),
        ChatFormat(thinking, "b"),
        ChatFormat(thinking, None, {"enable_thinking": False}),
        ChatFormat(thinking, "a", {"enable_thinking": False}),
    ]
    digests = {own.digest for own in formats}
    assert len(digests) == len(formats)
    assert all(own.startswith(f"{plain}+") for own in digests)
    assert data.InChat([], thinking, system="a").template == formats[1].digest


def test_conversations_in_a_dataset_s_columns_are_pairs(thinking: Any) -> None:
    rows = [{"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No"}]}]
    pairs = data.PairsIn(rows, "chosen", "rejected", chat=True)
    begin = "<|user|>Hi<|end|><|assistant|>"
    assert list(data.InChat(pairs, thinking)) == [(f"{begin}Hello", f"{begin}No")]
    with pytest.raises(ValueError, match=r"row 0: column 'chosen' holds a list; .*need --chat"):
        list(data.PairsIn(rows, "chosen", "rejected"))
    broken = data.PairsIn([{"chosen": [{"role": "user"}], "rejected": "x"}], *rows[0], chat=True)
    with pytest.raises(ValueError, match=r"row 0, chosen: expected .* a text under 'content'"):
        list(broken)


def test_texts_are_put_into_the_template_one_by_one(thinking: Any) -> None:
    texts = data.TextsInChat(["Hi", [USER, ANSWER]], thinking, system="S")
    begin = "<|system|>S<|end|><|user|>Hi<|end|><|assistant|>"
    assert list(texts) == [begin, f"{begin}Hello"] == list(texts)
    with pytest.raises(ValueError, match=r"text 1: got \[\]; expected a text, or a list"):
        list(data.TextsInChat(["Hi", []], thinking))


def test_conversations_that_are_not_rendered_are_refused_in_words(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "p.jsonl", [{"positive": [USER], "negative": [USER]}])
    with pytest.raises(ValueError, match=r"line 1: .* got a list; chat messages need a template: "):
        data.PairsFile(file)


def test_questions_in_chat_are_answered_by_the_assistant(tmp_path: Path, thinking: Any) -> None:
    keys = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    dialogue = "Human:\nOne\nor two?\n\nAI:\nI choose ("
    rows = [("Is it so?", " Yes", " No"), (dialogue, "A", "B")]
    file = write_lines(tmp_path / "q.jsonl", [dict(zip(keys, row, strict=True)) for row in rows])
    found = list(data.InChat(data.QuestionPairs(file, chat=True), thinking))
    begin = "<|user|>One\nor two?<|end|><|assistant|>I choose ("
    asked = "<|user|>Is it so?<|end|><|assistant|>"
    assert found == [(f"{asked}Yes", f"{asked}No"), (f"{begin}A", f"{begin}B")]
