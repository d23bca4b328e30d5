"""`faststeer generate`: unsteered beside steered text."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from faststeer.commands import options


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
    from faststeer.generation import show_side_by_side
    from faststeer.steer_option import SteerOption

    steering = [SteerOption.parse(text) for text in steer]
    for option in steering:
        option.vector  # noqa: B018 - a broken file is told before the model is loaded
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    show_side_by_side(loaded, steering, prompt, max_new_tokens, chat, Console())
