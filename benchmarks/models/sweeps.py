"""Compare a sweep with the same settings run one at a time: the gain of sharing and batching.

python benchmarks/models/sweeps.py --data ../shared/data/behaviours \\
    --text ../shared/data/text/...jsonl

Both compute logits only where they are needed, on the same batches, and are interleaved. The
speedup is of processor time, which other programs on the same cores change little; wall time is
reported as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as work

import torch

import faststeer
from faststeer.data import Documents
from faststeer.data.questions import part_of, read_choices
from faststeer.evaluate.matching import matching_scores, matching_scores_by_setting
from faststeer.evaluate.next_token import ScoredTexts
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings
from faststeer.models.loading import load
from faststeer.utils.machine import machine_facts
from faststeer.vectors.random import random_vector

LAYERS, COEFFICIENTS = (10, 15, 20, 25), (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
SETTINGS = [{"v": {layer: c}} for layer in LAYERS for c in COEFFICIENTS]
LIMIT = 1.5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="a folder with myopic.json")
    parser.add_argument("--text", type=Path, required=True, help="documents")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    loaded = load("demo", dtype=torch.bfloat16)
    model, tokenizer = loaded.model, loaded.tokenizer
    choices = part_of(read_choices(options.data / "myopic.json"), "validation")[: options.items]
    documents = list(islice(Documents(options.text), options.items))
    patched = faststeer.patch(model)
    patched.steer(random_vector("v", dict.fromkeys(LAYERS, 5.0), patched.hidden_size, seed=0))
    texts = ScoredTexts(model, tokenizer, documents, 128)

    def answers_one_at_a_time() -> list[float]:
        found = []
        for setting in [*SETTINGS, {}]:
            with patched.rows([setting]):
                found.append(matching_scores(model, tokenizer, choices).probability)
        return found

    def answers_shared() -> list[float]:
        unsteered, found = matching_scores_by_setting(patched, model, tokenizer, choices, SETTINGS)
        return [own.probability for own in [*found, unsteered]]

    def tokens_one_at_a_time() -> list[float]:
        found = []
        for setting in [*SETTINGS, {}]:
            with patched.rows([setting]):
                found.append(texts.scores(CurrentSteering(model), 8)[0].accuracy)
        return found

    def tokens_shared() -> list[float]:
        return [own.accuracy for own in texts.scores(ManySettings(patched, SETTINGS), 8)]

    tasks = {
        "answers to choices": (answers_one_at_a_time, answers_shared),
        "next tokens of documents": (tokens_one_at_a_time, tokens_shared),
    }
    results = {name: compared(*both, options.rounds) for name, both in tasks.items()}
    for name, own in results.items():
        print(f"{name}: {own['speedup']:.2f} times as fast, {own['ratios']}; limit {LIMIT}")
    record = {
        "machine": machine_facts(),
        "model": f"{loaded.name}, bfloat16",
        "layers": LAYERS,
        "coefficients": COEFFICIENTS,
        "items": options.items,
        "results": results,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    if any(own["speedup"] < LIMIT for own in results.values()):
        raise SystemExit(f"a sweep is less than {LIMIT} times as fast as one setting at a time")


def compared(
    alone: Callable[[], list[float]], shared: Callable[[], list[float]], rounds: int
) -> dict[str, Any]:
    """Time both, interleaved; the speedup is the median of the rounds' ratios."""
    processor: dict[str, list[float]] = {"one at a time": [], "shared": []}
    wall: dict[str, list[float]] = {name: [] for name in processor}
    difference = 0.0
    for _ in range(rounds):
        found = []
        for name, run in zip(processor, (alone, shared), strict=True):
            started = time.process_time(), time.perf_counter()
            found.append(torch.tensor(run()))
            processor[name].append(round(time.process_time() - started[0], 2))
            wall[name].append(round(time.perf_counter() - started[1], 2))
        difference = max(difference, float((found[0] - found[1]).abs().max()))
    ratios = [a / b for a, b in zip(*processor.values(), strict=True)]
    return {
        "processor_seconds": processor,
        "wall_seconds": wall,
        "ratios": [round(ratio, 3) for ratio in ratios],
        "speedup": round(statistics.median(ratios), 3),
        "largest_difference": difference,
    }


if __name__ == "__main__":
    main()
