"""Measure the first start of `faststeer play`: from the command to the first answer.

    python benchmarks/models/play_start.py [--output FILE]

The cache folder is empty, so that the demo's vectors are made. The answer has as many tokens as the
page asks for at first, and comes through the page's own queue.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from faststeer.diagnostics.bench.timing import OtherLoad
from faststeer.play.serve import LOOPBACK, require_gradio
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts

PROMPT, SETTING, TOKENS = "The food at this hotel was", {"sentiment": 1.3}, 48


def free_port() -> int:
    """Return a port of this machine that no program listens on."""
    with socket.socket() as opened:
        opened.bind((LOOPBACK[0], 0))
        return int(opened.getsockname()[1])


def first_answer(address: str) -> tuple[float, float]:
    """Return the moments of the first token and of the end of both answers."""
    require_gradio()
    from gradio_client import Client

    job = Client(address, verbose=False).submit(PROMPT, SETTING, TOKENS, api_name="/steer")
    first = next(time.perf_counter() for _ in job)
    job.result()
    return first, time.perf_counter()


def main(
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    load, port = OtherLoad(), free_port()
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "faststeer", "play", "--port", str(port)],
            env={**os.environ, "FASTSTEER_CACHE": cache, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None  # it is a pipe
            lines = []
            for line in server.stdout:
                lines.append({"line": line.strip(), "seconds": time.perf_counter() - started})
                print(f"{lines[-1]['seconds']:6.1f} s  {line.strip()}")
                if line.startswith("open http"):
                    break
            else:
                raise RuntimeError("the server ended before its page was open")
            opened = lines[-1]["seconds"]
            first, ended = (
                moment - started for moment in first_answer(f"http://{LOOPBACK[0]}:{port}")
            )
        finally:
            server.terminate()
            server.wait(30)
    print(f"{first:6.1f} s  first token\n{ended:6.1f} s  both answers")
    facts: dict[str, Any] = {
        "machine": machine_facts(),
        "tokens": TOKENS,
        "page": opened,
        "first_token": first,
        "answers": ended,
        "other_cores": load.cores(),
    }
    if output is not None:
        write_whole(output, (json.dumps(facts, indent=1) + "\n").encode())


if __name__ == "__main__":
    typer.run(main)
