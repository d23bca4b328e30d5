"""The command `faststeer compare`: where steering acts, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import chat_options, options
from faststeer.cli.steer_option import FORM, SteerOption
from faststeer.vectors.steering_vector import SteeringVector


def compare(
    steer: Annotated[list[str], typer.Option(help=f"{FORM}; repeatable, vectors add up.")],
    model: options.ModelOption,
    prompt: Annotated[str | None, typer.Option(help="Prompt of the two answers.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text to compare as well, or a file that holds it; repeatable."),
    ] = None,
    colour: Annotated[
        str, typer.Option("--colour", "--color", help="kl, projection or change.")
    ] = "kl",
    vector: Annotated[
        Path | None,
        typer.Option(help="Vector to project on; default: that of --steer, if it is one."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            *options.LAYER_NAMES,
            help="Layer that is read; default: the last, and for projections the steered one.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file to write as well.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 40,
    chat: Annotated[
        bool, typer.Option("--chat", help="Apply the chat template to the prompt and the texts.")
    ] = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Show at which tokens steering changes the two greedy answers, and given texts."""
    from faststeer import diagnostics
    from faststeer.patching.patch import patch
    from faststeer.utils.files import write_whole
    from faststeer.vectors.stated_use import warn_of_other_template

    chats = chat_options.ChatOptions.parse(chat, system, template)
    steering = [SteerOption.parse(form) for form in steer]
    if prompt is None and not text:
        raise ValueError("there is nothing to compare; give --prompt or --text")
    _require_colour(colour, steering, vector)
    if output is not None:
        options.require_new_file(output)
    only = options.single_layer(layer)
    for option in steering:
        option.require_layers()  # reads the file, before the model is loaded
    projected = None if vector is None else SteeringVector.load(vector)
    texts = [_read(given) for given in text or ()]
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    chat_format = chats.format(loaded.tokenizer)
    asked = prompt
    if chat_format is not None:
        asked = None if prompt is None else chat_format.text(prompt)
        texts = [chat_format.text(given) for given in texts]
        for option in steering:
            warn_of_other_template(option.vector, chat_format.digest)
    console = Console()
    with patch(loaded.model) as patched:
        for option in steering:
            option.in_chat(chat_format).apply(patched)
        found = diagnostics.compare(
            loaded.model,
            loaded.tokenizer,
            asked,
            texts=texts,
            max_new_tokens=max_new_tokens,
            vector=projected,
            layer=only,
            add_special_tokens=chat_format is None,
            progress=console.is_terminal,
        )
    console.print(diagnostics.comparison_as_text(found, colour))
    if output is not None:
        page = diagnostics.comparison_as_html(found, f"Steering of {loaded.name}", colour)
        write_whole(output, page.encode("utf-8", "replace"))
        console.print(f"wrote {output}", markup=False, highlight=False, soft_wrap=True)


def _require_colour(colour: str, steering: list[SteerOption], vector: Path | None) -> None:
    """Raise ValueError, before the model is loaded, for a colour that cannot be shown."""
    from faststeer.diagnostics.comparison import COLOURS

    if colour not in COLOURS:
        raise ValueError(f"--colour {colour!r} is unknown; expected one of {', '.join(COLOURS)}")
    if colour == "projection" and vector is None and len(steering) != 1:
        raise ValueError(
            f"--colour projection needs a vector to project on, and --steer has {len(steering)}; "
            "give one with --vector"
        )


def _read(text: str) -> str:
    """Return the content of a file of this name, but its last line end; else the text itself.

    Raises:
        OSError, ValueError: a file that cannot be read as UTF-8.
    """
    from faststeer.utils.text_files import read_utf8

    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        is_file = False
    return read_utf8(text, "a text").removesuffix("\n") if is_file else text
