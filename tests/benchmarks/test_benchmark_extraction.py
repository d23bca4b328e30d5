"""The extraction benchmark compares equal work and measures peak memory correctly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import capture
import costs
import extraction
import pytest
import torch
from residual_streams import row_error
from rich.console import Console
from tiny import ByteTokenizer
from transformers import LlamaForCausalLM

import faststeer

PAIRS = [(f"is it {n}? yes{'!' * (n % 3)}", f"is it {n}? no") for n in range(9)]


PEAK = """
import sys, torch
sys.path.append(sys.argv[1])
import costs

def call():
    for _ in range(3):
        torch.ones(64, 2**18).sum()  # 64 MiB, three times, one after the other

call()
print(costs.peak_memory(call))
"""


def test_a_peak_is_the_largest_amount_of_memory_that_a_call_had() -> None:
    """In a separate process: memory left by other tests may be released during the measurement."""
    folder = str(Path(costs.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, folder], capture_output=True, text=True, check=True
    )
    assert 55 < float(done.stdout) < 80


def test_kept_hidden_states_give_the_vector_that_extract_gives(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    with torch.no_grad():
        kept = extraction.kept_hidden_states(tiny_model, byte_tokenizer, PAIRS, 4)
    vector = faststeer.extract(tiny_model, byte_tokenizer, PAIRS, progress=False)
    ours = torch.stack([vector.directions[layer] for layer in vector.layers])
    assert row_error(ours[:-1], kept[:-1]) < 1e-5  # the last is behind the final norm


def test_a_capturing_forward_is_judged_against_a_plain_one(
    tiny_model: LlamaForCausalLM,
) -> None:
    calls = capture.capture_calls(tiny_model, 2, 5)
    record = costs.compare("", calls, "forward", 1, Console(quiet=True))
    assert [verdict["variant"] for verdict in capture.verdicts_on(record)] == [
        "capture, every token",
        "capture, last tokens",
    ]
    fast, slow = {"capture, a": {"times": 1.03}}, {"capture, a": {"times": 1.04}}
    assert [capture.verdicts_on(one)[0]["met"] for one in (fast, slow)] == [True, False]
    with torch.no_grad():
        (moments, *_), states = (
            calls["capture, every token"]().values(),
            calls["output_hidden_states"](),
        )
        torch.testing.assert_close(moments.mean[0], states[0][0], rtol=0, atol=1e-6)


def test_the_models_forwards_take_part_of_the_total_time(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    before = extraction.ActivationReader._run
    record = extraction.once(tiny_model, byte_tokenizer, PAIRS, Console(quiet=True))
    assert record["pairs"] == 9
    assert 0 < record["share_of_forwards"] < 1
    assert extraction.ActivationReader._run is before


def test_the_long_run_is_judged_by_wall_time() -> None:
    runs = [{"pairs": 500, "seconds": seconds} for seconds in (60.0, 60.1)]
    assert [extraction.verdict_on(run)["met"] for run in runs] == [True, False]


def test_memory_is_reported_for_few_and_many_streamed_pairs(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "FEW", 2)
    monkeypatch.setattr(extraction, "MANY", 24)
    record = extraction.memory(tiny_model, byte_tokenizer, Console(quiet=True))
    assert list(record) == ["2", "24"]
    assert all(0 <= mib < 64 for own in record.values() for mib in own.values())
