"""Measure the host's work per decode step: Python and dispatch, on a model that computes little.

    python benchmarks/models/host.py [--device cuda] [--rounds N] [--output FILE]

A LLaMA of 32 layers and hidden size 64, batch 1, one thread: on a GPU an eager step waits for the
same work, and for the launches. Steps of all variants are interleaved. A layer's two residual adds
and norms are all that faststeer can make cheaper: what it removes of them is reported as a share.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import faststeer
from faststeer import ops
from faststeer.diagnostics.bench import phases
from faststeer.diagnostics.bench.timing import OtherLoad, Samples, interleaved
from faststeer.diagnostics.bench.variants import (
    HOOKS,
    IDLE,
    STOCK,
    hooked_twin,
    per_row_variant,
    shared_variant,
    steered_twin,
    vectors_on_all_layers,
)
from faststeer.models.inference import random_ids
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts

LAYERS, PROMPT, STEPS = 32, 16, 8
COUNTS = (1, 4)  # vectors
SOME, MET = "faststeer, 1 vector at generated tokens", "faststeer, 1 vector where a condition holds"


def tiny_llama(device: str = "cpu") -> nn.Module:
    """Return a LLaMA whose matrix products cost almost nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    model: nn.Module = LlamaForCausalLM(config).eval()
    return model.to(device)


def variants_of(model: nn.Module, ids: torch.Tensor) -> dict[str, nn.Module]:
    """Return the model stock, hooked, patched and idle, and steered in every way that is measured.

    `ids` ``[1, T]``: the prompt of the decode steps, on which the condition is decided.
    """
    vectors = vectors_on_all_layers(model, max(COUNTS))
    variants = {STOCK: model, HOOKS: hooked_twin(model, vectors[:1])}
    variants[IDLE] = steered_twin(model, [])
    for count in COUNTS:
        variants[shared_variant(count)] = steered_twin(model, vectors[:count])
    for count in COUNTS:
        variants[per_row_variant(count)] = own = steered_twin(model, vectors[:count])
        patched = faststeer.patch(own)
        row = {each.name: 1.0 + i / 8 for i, each in enumerate(patched.handles)}
        patched.rows([row]).__enter__()  # for as long as this program runs
    for name in (SOME, MET):
        variants[name] = own = steered_twin(model, [])
        patched = faststeer.patch(own)
        patched.prompt_lengths = [ids.shape[1]]
        if name == SOME:
            patched.steer(vectors[0], positions="generated")
        else:
            always = faststeer.when(vectors[1], layer=0, above=-1.0)
            patched.steer(vectors[0], layers=range(1, LAYERS), when=always)
            with torch.inference_mode():
                own(input_ids=ids)  # decides on the prompt
    return variants


def removable_seconds(model: Any, rounds: int) -> tuple[Samples, float]:
    """Time stock's add and norm beside the op, and return what a layer could save by it."""
    norm = model.model.norm
    residual = torch.randn(1, 1, norm.weight.numel(), device=norm.weight.device)
    x, epsilon = torch.randn_like(residual), norm.variance_epsilon
    with torch.inference_mode():
        samples = interleaved(
            {
                "add and norm": lambda: norm(residual + x),
                "op": lambda: ops.steer_add_rms_norm(x, residual, norm.weight, epsilon),
            },
            rounds,
        )
    return samples, 2 * (samples.median("add and norm") - samples.median("op"))


def record_of(samples: Samples, removable: float) -> dict[str, dict[str, float]]:
    """Return each variant's µs per layer, ratio to stock with quartiles, and share removed."""
    record = {}
    for name, seconds in samples.seconds.items():
        saved = [
            (stock - own) / LAYERS
            for own, stock in zip(seconds, samples.seconds[STOCK], strict=True)
        ]
        low, high = samples.ratio_quartiles(name, STOCK)
        record[name] = {
            "microseconds_per_layer": samples.median(name) * 1e6 / LAYERS,
            "against_stock": samples.speedup(STOCK, over=name),
            "lower_quartile": low,
            "upper_quartile": high,
            "removed": statistics.median(saved) / removable,
        }
    return record


def main(
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Rounds over all variants.")] = 101,
    output: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
) -> None:
    """Measure a decode step, print it per layer, and write the record."""
    torch.set_num_threads(1)
    model = tiny_llama(device)
    ids = random_ids(model, 1, PROMPT)
    variants = variants_of(model, ids)
    other_load = OtherLoad()
    samples = phases.decode(variants, ids, STEPS, rounds, lambda _: None)
    pair, removable = removable_seconds(model, rounds)
    cores_elsewhere = other_load.cores()
    record = record_of(samples, removable)

    table = Table("", "µs per layer", "against stock", "quartiles", "of the removable")
    for name, own in record.items():
        table.add_row(
            name,
            f"{own['microseconds_per_layer']:.1f}",
            f"{own['against_stock']:.3f}",
            f"{own['lower_quartile']:.3f} to {own['upper_quartile']:.3f}",
            f"{own['removed']:.0%}",
        )
    console = Console()
    console.print(table)
    microseconds = {name: pair.median(name) * 1e6 for name in pair.seconds}
    console.print(
        f"stock's add and norm {microseconds['add and norm']:.1f} µs, the op "
        f"{microseconds['op']:.1f} µs: a layer could save {removable * 1e6:.1f} µs"
    )
    if output is not None:
        facts = {
            "machine": machine_facts(),
            "device": device,
            "cores_elsewhere": cores_elsewhere,
            "rounds": rounds,
            "microseconds": microseconds,
            "decode": record,
        }
        write_whole(output, json.dumps(facts, indent=1).encode() + b"\n")


if __name__ == "__main__":
    typer.run(main)
