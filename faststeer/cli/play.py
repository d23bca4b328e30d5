"""The command `faststeer play`: a page to steer on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from faststeer.cli import options


def play(
    model: options.ModelOption = "demo",
    vectors: Annotated[
        Path | None, typer.Option(help="Folder of vectors: .safetensors and .gguf files.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve; others than this machine's need --password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: a free one from 7860 on.")
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="FASTSTEER_PASSWORD", help="Of the user 'play', for --host."),
    ] = None,
    device: options.DeviceOption = "cpu",
    dtype: options.DtypeOption = None,
) -> None:
    """Serve a page with a slider per vector, and both answers side by side."""
    from faststeer.play import serve

    serve.require_password(host, password)
    serve.require_gradio()
    from faststeer.play.library import demo_vectors, folder_vectors
    from faststeer.play.page import build
    from faststeer.play.playground import Playground
    from faststeer.vectors.steering_vector import SteeringVector

    console = Console()

    def report(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    report(f"loading {model}")
    loaded = options.load(model, device, dtype, None)
    options.require_tokenizer(loaded)
    found: list[SteeringVector] = []
    with options.warnings_as_lines():
        if vectors is not None:
            found, refused = folder_vectors(vectors, loaded.model.config.hidden_size)
            for line in refused:
                report(f"left out: {line}")
        elif model == "demo":
            report("making the demo's vectors (the first time: a few seconds)")
            found = demo_vectors(loaded)
        report("measuring the residual stream's norms, for the ranges of the sliders")
        playground = Playground(loaded, found)
    app = build(playground)
    try:
        address = serve.launch(app, host, port, password)
        report(f"open {address} in a browser; Ctrl-C ends")
        app.block_thread()
    finally:
        playground.close()
