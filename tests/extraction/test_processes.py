"""Several processes give the vector of one: each computes its share of the batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.run
import torch.multiprocessing
from places import ROOT
from residual_streams import row_error
from tiny import ByteTokenizer, make_tiny_model

import faststeer
from faststeer.models import loading

PAIRS = [(f"is it {n}? yes{'!' * (n % 5)}", f"is it {n}? no") for n in range(41)]
METHODS = ("mean_difference", "pca_diff", "logistic_probe")


def vector_of(method: str, group: dist.ProcessGroup | None, pairs: int) -> faststeer.SteeringVector:
    """Extract with a hidden size so small that more than 16 differences are folded."""
    model = make_tiny_model(layers=2, hidden=8, num_attention_heads=2, num_key_value_heads=1)
    return faststeer.extract(
        model,
        ByteTokenizer(),
        PAIRS[:pairs],
        method=method,
        batch_size=4,
        progress=False,
        process_group=group,
    )


def vector_without_sinks(
    group: dist.ProcessGroup | None, sink: int = ByteTokenizer.bos_token_id, read: str | int = "all"
) -> faststeer.SteeringVector:
    """Extract from a model for which a token is a sink from layer 0 on."""
    model = make_tiny_model(layers=2)
    with torch.no_grad():
        model.get_input_embeddings().weight[sink] *= 1000
    return faststeer.extract(
        model,
        ByteTokenizer(),
        [*PAIRS, ("is it so?", "is it not?"), ("or not;", "or so")],
        read_token=read,
        batch_size=4,
        progress=False,
        process_group=group,
    )


def _extract(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    for method in METHODS:
        for pairs in (3, 15, 41):  # fewer batches than processes; kept; folded
            vector = vector_of(method, dist.group.WORLD, pairs)
            vector.save(f"{folder}/{method}-{pairs}-{rank}.safetensors")
    vector_without_sinks(dist.group.WORLD).save(f"{folder}/sinks-{rank}.safetensors")
    at_last = vector_without_sinks(dist.group.WORLD, ord(";"), -1)  # of one pair, on one process
    at_last.save(f"{folder}/last-{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_the_batches_and_get_the_same_result(tmp_path: Path) -> None:
    world = 3
    arguments = world, str(tmp_path)
    torch.multiprocessing.start_processes(_extract, arguments, world, start_method="fork")
    texts = 2 * len(PAIRS) + 4
    alone = vector_without_sinks(None, ord(";"), -1)
    assert alone.metadata["sinks_dropped"] == {"0": 1, "1": 1}
    for rank in range(world):
        vector = faststeer.SteeringVector.load(tmp_path / f"last-{rank}.safetensors")
        assert vector.metadata == alone.metadata
        for layer, direction in vector.directions.items():
            assert row_error(direction[None], alone.directions[layer][None]) < 1e-5
        counted = faststeer.SteeringVector.load(tmp_path / f"sinks-{rank}.safetensors").metadata
        left_out = {"positions": texts, "texts": texts, "layers": {"0": texts, "1": texts}}
        assert counted["sinks_left_out"] == left_out
    for method in METHODS:
        for pairs in (3, 15, 41):
            alone = vector_of(method, None, pairs)
            found = [
                faststeer.SteeringVector.load(tmp_path / f"{method}-{pairs}-{rank}.safetensors")
                for rank in range(world)
            ]
            for vector in found:
                assert vector.metadata == alone.metadata
                for layer, direction in vector.directions.items():
                    assert torch.equal(direction, found[0].directions[layer])
                    assert row_error(direction, alone.directions[layer]) < 1e-6


@pytest.mark.slow
def test_torchrun_writes_one_file_equal_to_that_of_one_process(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = [json.dumps({"positive": a, "negative": b}) for a, b in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    files = ["--pairs", str(tmp_path / "pairs.jsonl"), "--output", str(tmp_path / "v.safetensors")]
    command = ["-m", "faststeer", "extract", "--model", str(tiny_folder), *files]
    torch.distributed.run.main(["--nproc-per-node", "2", *command])
    assert capfd.readouterr().out.count("wrote") == 1
    found = faststeer.SteeringVector.load(tmp_path / "v.safetensors")
    loaded = loading.load(str(tiny_folder))
    alone = faststeer.extract(loaded.model, loaded.tokenizer, PAIRS, progress=False)
    assert found.metadata == alone.metadata
    for layer, direction in alone.directions.items():
        assert row_error(found.directions[layer], direction) < 1e-6
