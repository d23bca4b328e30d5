"""Greedy generation, batched, for the command line's side-by-side tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.batches import device_of, left_padded
from faststeer.data.chat import chat_text
from faststeer.intended import template_digest, warn_of_other_template
from faststeer.loading import Loaded
from faststeer.patching import patch
from faststeer.steer_option import SteerOption


def continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    add_special_tokens: bool = True,
) -> list[str]:
    """What `model` says after each prompt, greedily; left-padded into one batch.

    `add_special_tokens`: passed to the tokenizer; prompts out of a chat template have them.
    """
    encoded = [
        tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"] for prompt in prompts
    ]
    if not all(encoded):
        raise ValueError("a prompt has no tokens; there is nothing to continue")
    batch = left_padded(encoded, tokenizer.pad_token_id, device_of(model))
    generated = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    longest = batch.ids.shape[1]
    texts: list[str] = tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
    return texts


def show_side_by_side(
    loaded: Loaded,
    options: list[SteerOption],
    prompts: list[str],
    max_new_tokens: int,
    chat: bool,
    console: Console,
) -> None:
    """Print a table of prompts with what the model says unsteered and steered."""
    tokenizer = loaded.tokenizer
    whole = [chat_text(prompt, tokenizer) if chat else prompt for prompt in prompts]
    said = partial(continuations, loaded.model, tokenizer, whole, max_new_tokens, not chat)
    if chat:
        for option in options:
            warn_of_other_template(option.vector, template_digest(tokenizer))
    with patch(loaded.model) as patched:
        handles = [option.apply(patched) for option in options]
        steered = said()
        with patched.off():
            plain = said()
        title = ", ".join(f"{h.name} {h.coefficient:+g} at {h.layers}" for h in handles)
    table = Table(title=Text(title), show_lines=True)
    for column in ("prompt", "unsteered", "steered"):
        table.add_column(column, overflow="fold")
    for row in zip(prompts, plain, steered, strict=True):
        table.add_row(*(Text(text.strip()) for text in row))
    console.print(table)
