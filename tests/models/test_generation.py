"""The prompts that `faststeer generate` passes to the model."""

from __future__ import annotations

from io import StringIO

import pytest
from plain_hooks import random_vector
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from faststeer.cli.generate import show_side_by_side
from faststeer.cli.steer_option import SteerOption
from faststeer.data.chat import ChatFormat
from faststeer.models.loading import Loaded


class BeginsTexts:
    """Tokenizer that puts a token in front of texts, like LLaMA's; its template does too."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.own = tokenizer
        self.own.chat_template = "^{% for m in messages %}{{ m['content'] }}{% endfor %}>"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return self.own("^" * add_special_tokens + text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.own, name)


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_has_one_bos_in_the_chat_template_too(
    tiny_model, tiny_folder, tmp_path, chat
) -> None:
    tokenizer = BeginsTexts(PreTrainedTokenizerFast.from_pretrained(tiny_folder))
    file = tmp_path / "v.safetensors"
    random_vector("v", range(4)).save(file)
    seen = []
    generate = tiny_model.generate

    def watched(**how):
        seen.append(tokenizer.decode(how["input_ids"][0]))
        return generate(**how)

    tiny_model.generate = watched
    show_side_by_side(
        Loaded("tiny", tiny_model, tokenizer),
        [SteerOption.parse(str(file))],
        ["hello"],
        2,
        ChatFormat(tokenizer) if chat else None,
        Console(file=StringIO()),
    )
    assert seen == (["^hello>"] if chat else ["^hello"]) * 2
