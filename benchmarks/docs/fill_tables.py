"""Write the committed results into the tables of the README and of docs, between their marks.

python benchmarks/docs/fill_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path

import experiment_tables
from experiment_tables import Block
from result_tables import (
    backward_table,
    demo_table,
    extraction_text,
    host_table,
    model_table,
    ops_sentence,
    ops_table,
    parity_table,
    peers_table,
)
from serving_tables import play_start, play_table, vllm_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BROAD, BROAD_QWEN, TRAITS = (
    ROOT / "docs" / "results" / name / "outcome.json"
    for name in ("broad-skills", "broad-skills-qwen", "traits")
)

# By page and mark: the committed result, and the function that formats it.
PAGES: dict[str, dict[str, tuple[Path, Block]]] = {
    "README.md": {
        "host-cpu": (RESULTS / "host-cpu.json", host_table),
        "ops-sentence": (RESULTS / "ops-cpu.json", ops_sentence),
    },
    "docs/vllm.md": {
        "vllm-cpu": (RESULTS / "vllm-cpu.json", vllm_table),
        "vllm-eager-cpu": (RESULTS / "vllm-eager-cpu.json", vllm_table),
    },
    "docs/limits.md": {
        "peers": (RESULTS / "peers.json", peers_table),
    },
    "docs/play.md": {
        "play-start": (RESULTS / "play-start.json", play_start),
        "play-cpu": (RESULTS / "play-cpu.json", play_table),
    },
    "docs/benchmarks.md": {
        "ops-cpu": (RESULTS / "ops-cpu.json", ops_table),
        "backward-cpu": (RESULTS / "backward-cpu.json", backward_table),
        "host-cpu": (RESULTS / "host-cpu.json", host_table),
        "host-cpu-5.23": (RESULTS / "host-cpu-5.23.json", host_table),
        "smollm2-float32-cpu": (RESULTS / "smollm2-float32-cpu.json", model_table),
        "smollm2-bfloat16-cpu": (RESULTS / "smollm2-bfloat16-cpu.json", model_table),
        "llama-2-7b-2-layers-cpu": (RESULTS / "llama-2-7b-2-layers-cpu.json", model_table),
        "parity": (RESULTS / "parity.json", parity_table),
        "extraction-cpu": (RESULTS / "extraction-cpu.json", extraction_text),
        "demo": (RESULTS / "demo.json", demo_table),
    },
    "docs/results.md": {
        "broad-skills code": (BROAD, experiment_tables.table("Text kept (%) when general code")),
        "broad-skills Python": (BROAD, experiment_tables.table("Text kept (%) when Python")),
        "broad-skills crosswise": (BROAD, experiment_tables.table("What is left (%)")),
        "qwen code": (BROAD_QWEN, experiment_tables.table("Text kept (%) when general code")),
        "qwen Python": (BROAD_QWEN, experiment_tables.table("Text kept (%) when Python")),
        "qwen questions": (RESULTS / "questions-qwen.json", experiment_tables.questions_table),
        "traits alone": (TRAITS, experiment_tables.table("Each vector alone")),
        "traits verdict": (TRAITS, experiment_tables.table("Differences of the mean effect")),
        "traits ways": (TRAITS, experiment_tables.table("Added − subtracted at a tax of 5%")),
        "traits variants": (TRAITS, experiment_tables.table("Matching probability under one")),
        "traits growth": (TRAITS, experiment_tables.table("Share of the effect alone")),
        "traits generated": (TRAITS, experiment_tables.table("How the judge reads")),
    },
}


def filled(page: str) -> str:
    """Return a page's text with its tables regenerated from the committed results.

    Results that do not exist yet leave nothing between their marks.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    for mark, (path, make) in PAGES[page].items():
        table = make(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ""
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{page} has no marks {begin} and {end}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(filled(page), encoding="utf-8")
