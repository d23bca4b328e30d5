"""The command `sweep`: its table, its intervals and its picture."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import FASTSTEER, environment, run, write_pairs
from plain_hooks import random_vector

from faststeer.evaluate.records import Record
from faststeer.evaluate.score_intervals import score_intervals

PAIRS = [(f"it is {n}, yes", f"it is {n * n}, not so") for n in range(6)]


def record(margins: list[float]) -> Record:
    mean = sum(margins) / len(margins)
    return {"steering": {}, "scores": {"margin": mean}, "items": {"margin": margins}}


def test_an_interval_is_of_the_change_from_unsteered() -> None:
    before = [float(10 * n) for n in range(20)]
    after = [value + 1 + 0.01 * (n % 2) for n, value in enumerate(before)]
    alone = score_intervals(record(after))["margin"]
    changed = score_intervals(record(after), record(before))["margin"]
    mean = sum(after) / 20
    assert alone[1] - alone[0] > 10  # the items differ by tens, the change by hundredths
    assert 0 < changed[1] - changed[0] < 0.02
    assert changed[0] < mean < changed[1]


def test_documents_have_intervals_too() -> None:
    counts = {"tokens": [10, 20, 30], "top1": [5, 11, 12], "top10": [6, 12, 15]}
    items = {**counts, "surprise": [1.0, 2.0, 3.0], "divergence": [0.1, 0.2, 0.6]}
    own: Record = {"steering": {}, "scores": {}, "items": {"prose": items}}
    found = score_intervals(own)
    low, high = found["prose.accuracy"]
    assert low < 28 / 60 < high
    low, high = found["prose.kl"]
    assert low < 0.9 / 60 < high
    assert score_intervals(own, own)["prose.accuracy"] == pytest.approx((28 / 60, 28 / 60))


def test_a_sweep_on_pairs_fits_eighty_columns_and_is_drawn(
    tiny_folder: Path, tmp_path: Path
) -> None:
    vector = tmp_path / "v.safetensors"
    random_vector("v", layers=(1, 2), seed=1).save(vector)
    command = [
        *("sweep", "--model", tiny_folder, "--vector", vector, "--layers", "1,2"),
        *("--coefficients=-1,0.5,1", "--pairs", write_pairs(tmp_path / "p.jsonl", PAIRS)),
        *("--output", tmp_path / "out", "--figure", tmp_path / "sweep.png"),
    ]
    printed = subprocess.run(
        [*FASTSTEER, *map(str, command)],
        env=environment(COLUMNS="80"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = printed.splitlines()
    assert max(len(line) for line in lines if "wrote" not in line) <= 80
    for name in ("margin: how much likelier", "neutral ppl: ", "neutral kl: ", "+0.5 at 2"):
        assert name in printed
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open()][1:]
    for own in rows:
        margins = torch.tensor(own["items"]["margin"], dtype=torch.float64)
        assert own["scores"]["margin"] == pytest.approx(float(margins.mean()))
    assert rows[0]["scores"]["neutral"]["kl"] == 0
    assert all(own["scores"]["neutral"]["kl"] > 0 for own in rows[1:])
    margins = [own["scores"]["margin"] for own in rows]
    assert len(set(margins)) == 7


def test_several_sources_of_a_sweep_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    given = ["sweep", "--model", tiny_folder, "--vector", "v", "--coefficients", "1"]
    with pytest.raises(AssertionError, match="give one of --behaviour, --pairs and --documents"):
        run(*given, "--output", tmp_path / "o", "--pairs", "a", "--documents", "a=b")
