"""The command `faststeer highlight`: colour tokens by their projection on a vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from faststeer.cli import chat_options, options
from faststeer.steering.resolved_use import stated_layers
from faststeer.vectors.steering_vector import SteeringVector


def highlight(
    vector: Annotated[Path, typer.Argument(help="Vector file of any format.")],
    model: options.ModelOption,
    text: Annotated[list[str] | None, typer.Option(help="Text to colour; repeatable.")] = None,
    texts: Annotated[Path | None, typer.Option(help='JSONL of {"text": ...}.')] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            *options.LAYER_NAMES,
            help="Layer of the direction; optional if the vector has or states only one.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="HTML file to write as well.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Truncate texts to this many tokens.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Texts are chat messages; apply the chat template.")
    ] = False,
    system: chat_options.SystemOption = None,
    template: chat_options.TemplateOption = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Colour each token of the texts by its projection on a vector."""
    from faststeer import diagnostics
    from faststeer.data.jsonl import read_chats, read_texts
    from faststeer.utils.files import write_whole
    from faststeer.vectors.stated_use import warn_of_other_template

    chats = chat_options.ChatOptions.parse(chat, system, template)
    if html is not None:
        options.require_new_file(html)
    only = options.single_layer(layer)
    steering_vector = SteeringVector.load(vector)
    at = _layer_of(steering_vector) if only is None else only
    read = read_chats if chat else read_texts
    given: list[Any] = [*(text or []), *(read(texts) if texts is not None else ())]
    if not given:
        raise ValueError("there is no text to highlight; give --text or --texts")
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    chat_format = chats.format(loaded.tokenizer)
    if chat_format is not None:
        given = [chat_format.text(own) for own in given]
        warn_of_other_template(steering_vector, chat_format.digest)
    console = Console()
    found = diagnostics.project_tokens(
        loaded.model,
        loaded.tokenizer,
        steering_vector,
        given,
        layer=at,
        max_length=max_length,
        add_special_tokens=chat_format is None,
        progress=console.is_terminal,
    )
    console.print(diagnostics.as_text(found))
    if html is not None:
        page = diagnostics.as_html(found, f"{steering_vector.name}, layer {at}, {loaded.name}")
        write_whole(html, page.encode("utf-8", "replace"))
        console.print(f"wrote {html}", markup=False, highlight=False, soft_wrap=True)


def _layer_of(vector: SteeringVector) -> int:
    """Return the only layer that a vector states or has. Raises ValueError where it is not one."""
    stated = stated_layers(vector) or vector.layers
    if len(stated) > 1:
        raise ValueError(
            f"{vector.name!r} has layers {stated}; choose one with --layer, such as --layer "
            f"{stated[len(stated) // 2]}"
        )
    return stated[0]
