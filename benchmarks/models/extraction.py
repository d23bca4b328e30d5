"""Measure the time and memory of whole extractions; `capture.py` measures one forward pass.

    python benchmarks/models/extraction.py [--pairs FILE] [--output FILE]

steering-vectors is compared where it is installed, as in the environment of `make parity`.
Linux only: peak memory is read and reset under /proc.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from costs import Record, compare, peak_memory
from rich.console import Console
from torch import Tensor

import faststeer
from faststeer.data.batches import left_padded
from faststeer.data.jsonl import PairsFile
from faststeer.data.shipped import Behaviour
from faststeer.diagnostics.bench.timing import OtherLoad
from faststeer.extraction.reader import ActivationReader
from faststeer.models import loading
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts

Pairs = list[tuple[str, str]]
BATCH = 16
COMPARED = 16  # pairs: the other libraries take seconds for them
AT_MOST = 60.0  # seconds for 500 pairs, with two threads
FEW, MANY = 64, 512  # numbers of pairs between which memory must not grow


def kept_hidden_states(model: Any, tokenizer: Any, pairs: Pairs, batch_size: int) -> Tensor:
    """Extract naively: store every batch's last tokens and average them at the end."""
    rows: list[list[Tensor]] = [[], []]
    for begin in range(0, len(pairs), batch_size // 2):
        for side in (0, 1):
            texts = [pair[side] for pair in pairs[begin : begin + batch_size // 2]]
            batch = left_padded([tokenizer(text)["input_ids"] for text in texts], 0, model.device)
            states = model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                output_hidden_states=True,
            ).hidden_states
            rows[side].append(torch.stack([state[:, -1] for state in states[1:]], 1))
    positive, negative = (torch.cat(side).float().mean(0) for side in rows)
    return positive - negative


def extraction_calls(model: Any, tokenizer: Any, pairs: Pairs) -> dict[str, Callable[[], object]]:
    extract = partial(faststeer.extract, model, tokenizer, pairs, batch_size=BATCH, progress=False)
    calls: dict[str, Callable[[], object]] = {
        "faststeer": extract,
        "faststeer, whole texts": lambda: extract(read_token=range(-1, 0)),
        "output_hidden_states": lambda: kept_hidden_states(model, tokenizer, pairs, BATCH),
    }
    try:
        from steering_vectors import train_steering_vector
    except ImportError:
        return calls
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    calls["steering-vectors"] = lambda: train_steering_vector(
        model, tokenizer, pairs, batch_size=BATCH
    )
    return calls


def once(model: Any, tokenizer: Any, pairs: Pairs, console: Console) -> Record:
    """Time one pass over all pairs, and the share that the model's own forward passes take."""
    inside = 0.0
    run = ActivationReader._run

    def timed(*arguments: Any) -> None:
        nonlocal inside
        begin = time.perf_counter()
        run(*arguments)
        inside += time.perf_counter() - begin

    other_load = OtherLoad()
    with mock.patch.object(ActivationReader, "_run", timed):
        begin, used = time.perf_counter(), time.process_time()
        faststeer.extract(model, tokenizer, pairs, progress=False)  # like the command line
        took, used = time.perf_counter() - begin, time.process_time() - used
    record = {
        "pairs": len(pairs),
        "seconds": took,
        "processor_seconds": used,
        "share_of_forwards": inside / took,
        "cores_elsewhere": other_load.cores(),
    }
    console.print(
        f"{len(pairs)} pairs, all layers: {took:.1f} s ({used:.1f} of a processor), "
        f"{inside / took:.1%} of it in the model's forwards"
    )
    return record


def memory(model: Any, tokenizer: Any, console: Console) -> Record:
    """Return peak MiB of extractions from few and from many pairs, and with every state stored."""
    pairs = [(f"The answer to {n:03} is yes", f"The answer to {n:03} is no") for n in range(MANY)]
    record: Record = {}
    for count in (FEW, MANY):
        some = pairs[:count]
        calls: dict[str, Callable[[], object]] = {
            "faststeer": partial(faststeer.extract, model, tokenizer, iter(some), progress=False),
            "output_hidden_states": partial(kept_hidden_states, model, tokenizer, some, BATCH),
        }
        if not record:  # one-time allocations of a first call do not count
            faststeer.extract(model, tokenizer, some, progress=False)
        with torch.inference_mode():
            record[str(count)] = {name: peak_memory(call) for name, call in calls.items()}
        peaks = ", ".join(f"{name} {mib:.1f} MiB" for name, mib in record[str(count)].items())
        console.print(f"{count} short pairs, all layers, peak memory: {peaks}")
    return record


def verdict_on(record: Record) -> Record:
    """Return a verdict on the wall time of the long run."""
    return {
        "phase": "extraction",
        "variant": f"{record['pairs']} pairs",
        "at_most": AT_MOST,
        "reached": record["seconds"],
        "met": record["seconds"] <= AT_MOST,
    }


def load_pairs(path: Path | None) -> Pairs:
    """Load pairs from JSONL or a behaviour's JSON (questions with two answers), or as shipped."""
    if path is None:
        return [(a, b) for name in ("sentiment", "tense") for a, b in Behaviour.shipped(name).pairs]
    if path.suffix == ".jsonl":
        return list(PairsFile(path))
    return [
        (
            item["question"] + item["answer_matching_behavior"],
            item["question"] + item["answer_not_matching_behavior"],
        )
        for item in json.loads(path.read_text(encoding="utf-8"))
    ]


def main(
    pairs: Annotated[Path | None, typer.Option(help="Default: the demo's pairs.")] = None,
    most: Annotated[int, typer.Option(help="Number of pairs in the long run.")] = 500,
    rounds: Annotated[int, typer.Option(help="Samples of each variant.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
) -> None:
    """Measure extraction on SmolLM2-135M in bfloat16."""
    console = Console()
    loaded = loading.load("demo", dtype=torch.bfloat16)
    texts = load_pairs(pairs)
    record: Record = {"machine": machine_facts(), "batch": BATCH}
    title = f"extraction from {COMPARED} pairs"
    calls = extraction_calls(loaded.model, loaded.tokenizer, texts[:COMPARED])
    record[title] = compare(title, calls, "faststeer", rounds, console)
    record["memory"] = memory(loaded.model, loaded.tokenizer, console)
    record["once"] = once(loaded.model, loaded.tokenizer, texts[:most], console)
    record["targets"] = [verdict_on(record["once"])]
    if output is not None:
        write_whole(output, (json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    typer.run(main)
