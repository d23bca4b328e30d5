"""The command `faststeer generate`: print unsteered beside steered text."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.cli import chat_options, options
from faststeer.cli.broken_text import fault_of
from faststeer.cli.steer_option import FORM, SteerOption
from faststeer.data.chat import ChatFormat
from faststeer.models.inference import continuations
from faststeer.models.loading import Loaded
from faststeer.patching.patch import patch
from faststeer.steering.described import strength_text
from faststeer.utils.progress import progress_bar
from faststeer.vectors.layer_text import layers_text
from faststeer.vectors.stated_use import warn_of_other_template


def generate(
    prompt: Annotated[list[str], typer.Option(help="Text to continue; repeatable.")],
    steer: Annotated[list[str], typer.Option(help=f"{FORM}; repeatable, vectors add up.")],
    model: options.ModelOption,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 40,
    chat: Annotated[bool, typer.Option(help="Apply the chat template to the prompts.")] = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
) -> None:
    """Generate greedily and show unsteered beside steered text."""
    chats = chat_options.ChatOptions.parse(chat, system, template)
    steering = [SteerOption.parse(text) for text in steer]
    for option in steering:
        option.require_layers()  # reads the file, before the model is loaded
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    chat_format = chats.format(loaded.tokenizer)
    steering = [option.in_chat(chat_format) for option in steering]
    show_side_by_side(loaded, steering, prompt, max_new_tokens, chat_format, Console())


def show_side_by_side(
    loaded: Loaded,
    steering: list[SteerOption],
    prompts: list[str],
    max_new_tokens: int,
    chat: ChatFormat | None,
    console: Console,
) -> None:
    """Print a table of prompts with their greedy continuations, unsteered and steered.

    Args:
        loaded: the model, unpatched again on return, and its tokenizer.
        steering: the vectors, all active together.
        prompts: the texts to continue.
        max_new_tokens: the most tokens to generate.
        chat: the format that the prompts are put into; None for prompts as they are.
        console: where to print.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    inputs = prompts
    if chat is not None:
        inputs = [chat.text(prompt) for prompt in prompts]
        for option in steering:
            warn_of_other_template(option.vector, chat.digest)

    def generate_all() -> list[str]:
        # A chat template adds its own special tokens.
        return continuations(model, tokenizer, inputs, max_new_tokens, chat is None, advance)

    total = 2 * max_new_tokens
    with (
        patch(model) as patched,
        progress_bar("generating", total, console.is_terminal) as advance,
    ):
        handles = [option.apply(patched) for option in steering]
        steered = generate_all()
        with patched.off():
            unsteered = generate_all()
        title = ", ".join(
            f"{h.name} {strength_text(patched.plan.interventions[h.name])} at "
            f"{layers_text(h.layers)}"
            for h in handles
        )
    table = Table(title=Text(title), show_lines=True)
    for column in ("prompt", "unsteered", "steered"):
        table.add_column(column, overflow="fold")
    for row in zip(prompts, unsteered, steered, strict=True):
        prompt, *generated = row
        table.add_row(Text(prompt.strip()), *map(_with_fault, generated))
    console.print(table)


def _with_fault(text: str) -> Text:
    """Return a generated text, with a line beneath it if it is no text."""
    fault, shown = fault_of(text), Text(text.strip())
    if fault is not None:
        shown = Text("\n").join([*([shown] if shown else []), Text(f"({fault})", "bold red")])
    return shown
