"""Measure `faststeer play`'s batcher: clients at once, beside the same requests one after another.

    python benchmarks/models/play.py [--clients 1,4,8,16] [--rounds 3] [--output FILE]

Every client asks for a steered and an unsteered answer, at the same moment, each with another
coefficient. "One after another" is the same batcher with one request per batch. Tokens per second
count both answers; the time to the first token counts from the moment at which all clients ask.
"""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from faststeer.cli import options
from faststeer.data.shipped import Behaviour
from faststeer.diagnostics.bench.timing import OtherLoad
from faststeer.extraction.extract import extract
from faststeer.play import Batcher, Request, Use
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts

PROMPTS = (
    "The food at this hotel was",
    "When I think about my job, I feel",
    "My first impression of the city was",
    "The students of our school",
)


def requests(vector: Any, count: int, tokens: int) -> list[Request]:
    """Return the requests of `count` clients, of several prompts and coefficients."""
    return [
        Request(PROMPTS[n % len(PROMPTS)], [Use(vector, 0.5 + n / 8)], max_new_tokens=tokens)
        for n in range(count)
    ]


def serve(batcher: Batcher, asked: list[Request]) -> dict[str, float]:
    """Send all requests at once, and return the seconds, tokens and times to the first token."""
    together = Barrier(len(asked) + 1)

    def client(request: Request) -> tuple[float, float, int]:
        together.wait()
        started, first = time.perf_counter(), 0.0
        stream = batcher.submit(request)
        for _ in stream:
            first = first or time.perf_counter() - started
        tokens = sum(len(row.ids) for row in stream.rows)
        return first, time.perf_counter() - started, tokens

    with ThreadPoolExecutor(len(asked)) as clients:
        futures = [clients.submit(client, request) for request in asked]
        together.wait()
        found = [future.result() for future in futures]
    firsts, ends, counts = zip(*found, strict=True)
    return {
        "seconds": max(ends),
        "tokens": sum(counts),
        "tokens_per_second": sum(counts) / max(ends),
        "first_token_median": statistics.median(firsts),
        "first_token_last": max(firsts),
    }


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the run of median speed."""
    return sorted(runs, key=lambda run: run["tokens_per_second"])[len(runs) // 2]


def main(
    model: Annotated[str, typer.Option(help="As of `faststeer play`.")] = "demo",
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "1,4,8,16",
    tokens: Annotated[int, typer.Option(help="New tokens per answer.")] = 32,
    rounds: Annotated[int, typer.Option(help="Interleaved; the median is reported.")] = 3,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    torch.set_num_threads(threads)
    loaded = options.load(model, "cpu", None, None)
    behaviour = Behaviour.shipped("sentiment")
    with options.warnings_as_lines():
        vector = extract(
            loaded.model, loaded.tokenizer, behaviour.pairs, layers=behaviour.layer, name="v"
        )
    loaded.model.generation_config.eos_token_id = None  # every answer has as many tokens
    load, lines = OtherLoad(), []
    for count in map(int, clients.split(",")):
        asked = requests(vector, count, tokens)
        found: dict[str, list[dict[str, float]]] = {"together": [], "one_after_another": []}
        for _ in range(rounds):
            for kind, most in (("together", count), ("one_after_another", 1)):
                with Batcher(loaded.model, loaded.tokenizer, max_requests=most) as batcher:
                    batcher.submit(requests(vector, 1, 2)[0]).result()  # warm
                    found[kind].append(serve(batcher, asked))
        line: dict[str, Any] = {kind: middle(runs) for kind, runs in found.items()}
        speeds = [line[kind]["tokens_per_second"] for kind in found]
        lines.append({"clients": count, **line, "ratio": speeds[0] / speeds[1]})
    show(lines)
    facts = {
        "machine": machine_facts(),
        "model": loaded.name,
        "threads": threads,
        "tokens": tokens,
        "rounds": rounds,
        "other_cores": load.cores(),
        "lines": lines,
    }
    if output is not None:
        write_whole(output, (json.dumps(facts, indent=1) + "\n").encode())


def show(lines: list[dict[str, Any]]) -> None:
    table = Table(title="steered and unsteered answers, requests that arrive at once")
    for heading in ("clients", "tokens/s", "first token (s)", "one by one", "first token", "ratio"):
        table.add_column(heading, justify="right")
    for line in lines:
        cells = [str(line["clients"])]
        for kind in ("together", "one_after_another"):
            own = line[kind]
            cells.append(f"{own['tokens_per_second']:.1f}")
            cells.append(f"{own['first_token_median']:.2f}, last {own['first_token_last']:.2f}")
        table.add_row(*cells, f"{line['ratio']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
