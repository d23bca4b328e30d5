"""A steered model whose weights are split over processes computes the whole model's logits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT, SUPPORT
from plain_hooks import random_vector
from safetensors.torch import load_file
from tensor_parallel_worker import computed
from tiny import MakeTiny

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_processes_under_torchrun_are_steered_like_one(
    make_tiny: MakeTiny, tmp_path: Path
) -> None:
    model, vector = make_tiny(), random_vector("v", range(4))
    model.save_pretrained(tmp_path / "model")
    vector.save(tmp_path / "v.safetensors")
    files = [tmp_path / "model", tmp_path / "v.safetensors", tmp_path / "found.safetensors"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    torchrun = subprocess.Popen(
        [*TORCHRUN, SUPPORT / "tensor_parallel_worker.py", *files],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = torchrun.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        torchrun.terminate()  # terminated, not killed, so that it ends its two processes
        _, errors = torchrun.communicate(timeout=40)
    assert torchrun.returncode == 0, errors
    expected = computed(model, vector)
    found = load_file(files[2])
    assert len(found) == 2 * len(expected)
    for name, tensor in expected.items():
        for split in (found[name], found[f"{name}, norms too"]):
            torch.testing.assert_close(split, tensor, rtol=0, atol=1e-5)
    assert float((expected["steered"] - expected["idle"]).abs().max()) > 0.1
