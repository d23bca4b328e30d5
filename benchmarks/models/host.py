"""Measure the host's work per decode step: Python and dispatch, on a model that computes little.

    python benchmarks/models/host.py [--device cuda] [--rounds N] [--output FILE]

A LLaMA of 32 layers and hidden size 64, batch 1, one thread: on a GPU an eager step waits for the
same work, and for the launches. Steps of all variants are interleaved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

import faststeer
from faststeer.bench import phases
from faststeer.bench.variants import (
    HOOKS,
    IDLE,
    STOCK,
    hooked_twin,
    steered_twin,
    vectors_on_all_layers,
)
from faststeer.models.inference import random_ids
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts

LAYERS, PROMPT, STEPS = 32, 16, 8
ONE, SOME = "faststeer, 1 vector", "faststeer, 1 vector at generated tokens"


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


def variants_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model stock, hooked, patched, steered, and steered at some positions."""
    [vector] = vectors = vectors_on_all_layers(model, 1)
    variants = {STOCK: model, HOOKS: hooked_twin(model, vectors)}
    variants |= {IDLE: steered_twin(model, []), ONE: steered_twin(model, vectors)}
    variants[SOME] = steered_twin(model, [])
    patched = faststeer.patch(variants[SOME])
    patched.steer(vector, positions="generated")
    patched.prompt_lengths = [PROMPT]
    return variants


def main(
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Rounds over all variants.")] = 101,
    output: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
) -> None:
    """Measure a decode step, print it per layer, and write the record."""
    torch.set_num_threads(1)
    model = tiny_llama(device)
    variants = variants_of(model)
    ids = random_ids(model, 1, PROMPT)
    samples = phases.decode(variants, ids, STEPS, rounds, lambda _: None)
    console, record = Console(), {}
    for name in variants:
        own: dict[str, Any] = {
            "microseconds_per_layer": samples.median(name) * 1e6 / LAYERS,
            "against_stock": samples.speedup(STOCK, over=name),
        }
        record[name] = own
        console.print(
            f"{name}: {own['microseconds_per_layer']:.1f} µs per layer, "
            f"{own['against_stock']:.3f} times stock"
        )
    if output is not None:
        facts = {"machine": machine_facts(), "device": device, "rounds": rounds, "decode": record}
        write_whole(output, json.dumps(facts, indent=1).encode() + b"\n")


if __name__ == "__main__":
    typer.run(main)
