"""`faststeer highlight`: texts, coloured by their projection on a vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def highlight(
    vector: Annotated[Path, typer.Argument(help="A vector's file, of any format.")],
    model: options.ModelOption,
    text: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    texts: Annotated[Path | None, typer.Option(help='JSONL of {"text": ...}.')] = None,
    layer: Annotated[
        int | None, typer.Option(help="Whose direction; may be left out where there is one.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page of its own.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts after so many tokens.")] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Colour each token of texts by its projection on a vector."""
    from faststeer import SteeringVector, diagnostics
    from faststeer.data.jsonl import read_texts
    from faststeer.utils.files import write_whole

    if html is not None:
        options.require_new_file(html)
    own = SteeringVector.load(vector)
    if layer is None and len(own.layers) > 1:
        raise ValueError(f"{own.name!r} has layers {own.layers}; say which with --layer")
    given = [*(text or []), *(read_texts(texts) if texts is not None else ())]
    if not given:
        raise ValueError("there is no text to highlight; give --text or --texts")
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    found = diagnostics.project_tokens(
        loaded.model, loaded.tokenizer, own, given, layer=layer, max_length=max_length
    )
    console = Console()
    console.print(diagnostics.as_text(found))
    if html is not None:
        at = own.layers[0] if layer is None else layer
        page = diagnostics.as_html(found, f"{own.name}, layer {at}, {loaded.name}")
        write_whole(html, page.encode("utf-8", "replace"))
        console.print(f"wrote {html}", markup=False, highlight=False, soft_wrap=True)
