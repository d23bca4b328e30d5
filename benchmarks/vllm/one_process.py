"""Measure in this process what the plugin costs in vLLM; `serving_cost.py` runs it.

There is one engine: with the plugin and without take turns on the same requests and weights, step
by step. On a CPU the CPU time of the process is counted, of one thread if OMP_NUM_THREADS is 1 from
the start; on a GPU, without CUDA graphs, whose replay could not be toggled, the time until the GPU
is done.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from toggled import ABSENT, FIRST, LAST, MODES, CompiledEngine, EagerEngine, Toggled
from torch import nn

from faststeer import SteeringVector
from faststeer.models.loading import demo_folder
from faststeer.utils.files import write_whole
from faststeer.utils.machine import gpu_facts, machine_facts

PROMPT, STEPS, VECTORS = 16, 24, 8
BATCHES = (1, 8, 32)
# Of Python, as many as a chunk of its stack has room for. Where a compiled step's frame ends at a
# chunk's end, each op that it calls takes a new one from the system: 100 us a site, by chance.
FRAMES = 120
ORDERS = list(itertools.permutations(MODES))
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_AOT_COMPILE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Variant:
    """The steering of a batch: `vectors` at every layer, alike in all requests or different."""

    name: str
    vectors: int = 0
    alike: bool = False
    hooks: bool = False

    def terms(self, request: int) -> list[dict[str, Any]] | None:
        """Return the steering of a request; None for an unsteered one."""
        if self.hooks or not self.vectors:
            return None
        size = 0.1 if self.alike else (request + 1) / 1000
        return [
            {"vector": str(own), "coefficient": size * (-1) ** own} for own in range(self.vectors)
        ]


VARIANTS = (
    Variant("not steered"),
    Variant("all alike, 1 vector", 1, alike=True),
    Variant("all different, 2 vectors", 2),
    Variant(f"all different, {VECTORS} vectors", VECTORS),
)
HOOKS = Variant("plain hooks, all alike, 1 vector", 1, alike=True, hooks=True)


def random_vectors(layers: int, hidden_size: int) -> list[SteeringVector]:
    """Return vectors with unit directions at every layer."""
    generator = torch.Generator().manual_seed(0)
    return [
        SteeringVector(
            str(own),
            {
                layer: nn.functional.normalize(torch.randn(hidden_size, generator=generator), dim=0)
                for layer in range(layers)
            },
        )
        for own in range(VECTORS)
    ]


def gpu_time() -> float:
    """Return seconds at which the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def at_depth(frames: int, run: Callable[[], Any]) -> None:
    """Run below that many more Python frames."""
    if frames:
        at_depth(frames - 1, run)
    else:
        run()


class Decoder:
    """Decodes batches, and times their steps with the plugin and without."""

    def __init__(self, llm: Any, engine: Toggled, clock: Callable[[], float]) -> None:
        """Keep the engine, the ways to run its steps, and what counts seconds."""
        self.llm = llm.llm_engine
        self.engine: Any = engine
        self.clock = clock

    def decode(self, variant: Variant, batch: int) -> list[dict[str, float]]:
        """Return the milliseconds of neighbouring steps, by mode."""
        self.engine.hooks = False
        self.engine.use(FIRST)
        self._add_requests(variant, batch)
        for _ in range(3):  # the prompts, and what the first steps write
            self.llm.step()
        self.engine.hooks = variant.hooks
        found = []
        chance = random.Random(0)
        for turn in range(STEPS):
            spent = {}
            depth = chance.randrange(FRAMES)
            for mode in ORDERS[turn % len(ORDERS)]:
                self.engine.use(mode)
                started = self.clock()
                at_depth(depth, self.llm.step)
                spent[mode] = 1000 * (self.clock() - started)
            found.append(spent)
        if self.llm.has_unfinished_requests():
            raise RuntimeError("requests took more steps than tokens")
        return found

    def _add_requests(self, variant: Variant, batch: int) -> None:
        from vllm import SamplingParams

        chooser = random.Random(0)
        for at in range(batch):
            terms = variant.terms(at)
            self.llm.add_request(
                f"{variant.name} {at} {time.monotonic_ns()}",
                {"prompt_token_ids": [chooser.randint(100, 40_000) for _ in range(PROMPT)]},
                SamplingParams(
                    temperature=0,
                    max_tokens=len(MODES) * STEPS + 3,
                    ignore_eos=True,
                    extra_args=None if terms is None else {"faststeer": terms},
                ),
            )


def summary(variant: Variant, batch: int, steps: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians, the ratio to the engine without the plugin, and its scatter."""
    ratios = sorted(math.sqrt(own[FIRST] * own[LAST]) / own[ABSENT] for own in steps)
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(1000))
    return {
        "variant": variant.name,
        "batch": batch,
        "steps": len(steps),
        "ms": {mode: statistics.median(own[mode] for own in steps) for mode in MODES},
        "ratio": statistics.median(ratios),
        "ratio_interval": [medians[25], medians[974]],
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
        "first_over_last": statistics.median(own[FIRST] / own[LAST] for own in steps),
    }


def measure(decoder: Decoder, variants: tuple[Variant, ...], rounds: int) -> list[dict[str, Any]]:
    """Return one summary per batch size and variant, the variants of a batch size interleaved."""
    found = []
    for batch in BATCHES:
        for own in variants:
            decoder.decode(own, batch)  # warm
        steps: dict[Variant, list[dict[str, float]]] = {own: [] for own in variants}
        for _ in range(rounds):
            for own in variants:
                steps[own] += decoder.decode(own, batch)
        found += [summary(own, batch, steps[own]) for own in variants]
    return found


def start_engine(model: Path, vectors: list[SteeringVector], eager: bool, device: str) -> Any:
    """Start vLLM with the vectors."""
    from vllm import LLM
    from vllm.platforms import current_platform

    if current_platform.device_type != device:
        raise ValueError(f"this vLLM runs on {current_platform.device_type}, not on {device}")
    graphs = {"compilation_config": {"cudagraph_mode": "NONE"}} if device == "cuda" else {}
    with tempfile.TemporaryDirectory() as folder:
        for own in vectors:
            own.save(Path(folder) / f"{own.name}.safetensors")
        return LLM(
            model=str(model),
            dtype="float32" if device == "cpu" else "bfloat16",
            max_model_len=128,
            max_num_seqs=max(BATCHES),
            enforce_eager=eager,
            enable_prefix_caching=False,
            additional_config={"faststeer": {"vectors": folder}},
            **graphs,
        )


def main(
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    eager: Annotated[bool, typer.Option("--eager", help="Do not compile.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda, as vLLM was built.")] = "cpu",
    rounds: Annotated[int, typer.Option(help=f"Of {STEPS} steps of each mode.")] = 3,
) -> None:
    """Measure, and write the record."""
    record = measured(eager, device, rounds)
    write_whole(output, (json.dumps(record, indent=1) + "\n").encode())


def measured(eager: bool, device: str, rounds: int) -> dict[str, Any]:
    """Return what one engine in this process costs with the plugin, and where it was measured."""
    os.environ.update(ENVIRONMENT)
    import vllm

    model = demo_folder()
    facts = json.loads((model / "config.json").read_text(encoding="utf-8"))
    vectors = random_vectors(facts["num_hidden_layers"], facts["hidden_size"])
    llm = start_engine(model, vectors, eager, device)
    engine: Toggled
    if eager:
        weights = next(
            iter(llm.llm_engine.model_executor.driver_worker.worker.get_model().parameters())
        )
        directions = {layer: 0.1 * own.to(weights) for layer, own in vectors[0].directions.items()}
        engine = EagerEngine(llm, directions)
    else:
        engine = CompiledEngine(llm)
    clock = gpu_time if device == "cuda" else time.process_time
    found = measure(Decoder(llm, engine, clock), VARIANTS + ((HOOKS,) if eager else ()), rounds)
    return {
        "vllm": vllm.__version__,
        "eager": eager,
        "device": device,
        "rounds": rounds,
        "layers": facts["num_hidden_layers"],
        "machine": {
            **machine_facts(),
            "threads": torch.get_num_threads(),
            **(gpu_facts() if device == "cuda" else {}),
        },
        "results": found,
    }


if __name__ == "__main__":
    typer.run(main)
