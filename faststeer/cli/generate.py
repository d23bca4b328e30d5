"""`faststeer generate`: unsteered beside steered text."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.cli import options
from faststeer.cli.steer_option import SteerOption
from faststeer.data.chat import chat_text, template_digest
from faststeer.models.inference import continuations
from faststeer.models.loading import Loaded
from faststeer.patching.patch import patch
from faststeer.vectors.stated_use import warn_of_other_template


def generate(
    prompt: Annotated[list[str], typer.Option(help="May be given several times.")],
    steer: Annotated[
        list[str],
        typer.Option(
            help="FILE[:layer=N[,N...]][:coefficient=X][:mode=M][:positions=P]; several add up."
        ),
    ],
    model: options.ModelOption,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 40,
    chat: Annotated[bool, typer.Option(help="Put prompts into the chat template.")] = False,
) -> None:
    """Generate greedily, unsteered beside steered."""
    from faststeer.cli.steer_option import SteerOption

    steering = [SteerOption.parse(text) for text in steer]
    for option in steering:
        option.vector  # noqa: B018 - a broken file is told before the model is loaded
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    show_side_by_side(loaded, steering, prompt, max_new_tokens, chat, Console())


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
