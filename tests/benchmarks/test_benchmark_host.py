"""The host benchmark measures the variants that it names."""

import json

import host
import pytest
import torch

from faststeer.diagnostics.bench.timing import Samples

ROWS = ("faststeer, 1 vector a row", "faststeer, 4 vectors a row")


def test_every_variant_is_measured_per_layer_and_against_stock(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    host.main(rounds=2, output=tmp_path / "host.json")
    written = json.loads((tmp_path / "host.json").read_text())
    record = written["decode"]
    assert list(record) == [
        "stock",
        "plain hooks",
        "faststeer, idle",
        "faststeer, 1 vector",
        "faststeer, 4 vectors",
        *ROWS,
        host.SOME,
        host.MET,
    ]
    assert record["stock"]["against_stock"] == 1
    assert record["stock"]["removed"] == 0
    assert all(own["microseconds_per_layer"] > 0 for own in record.values())
    assert written["microseconds"].keys() == {"add and norm", "op"}


def test_the_share_is_of_what_two_ops_a_layer_could_save() -> None:
    seconds = {"stock": [1.0, 2.0, 1.0], "faststeer, idle": [0.8, 1.8, 0.8]}
    record = host.record_of(Samples(seconds), removable=0.4 / host.LAYERS)
    assert record["faststeer, idle"]["removed"] == pytest.approx(0.5)
    assert record["faststeer, idle"]["against_stock"] == pytest.approx(0.8)
    assert record["faststeer, idle"]["upper_quartile"] == pytest.approx(0.85)


def test_each_variant_steers_what_its_name_says() -> None:
    model = host.tiny_llama()
    prompt = host.PROMPT
    ids = torch.randint(256, (1, prompt + 2))
    variants = host.variants_of(model, ids[:, :prompt])
    with torch.inference_mode():
        logits = {name: own(input_ids=ids).logits for name, own in variants.items()}
    idle = logits["faststeer, idle"]
    assert torch.equal(logits[host.SOME][:, :prompt], idle[:, :prompt])
    for name, own in logits.items():
        if name not in ("stock", "faststeer, idle"):
            assert not torch.equal(own[:, prompt:], idle[:, prompt:]), name
    for row, shared in zip(ROWS, ("faststeer, 1 vector", "faststeer, 4 vectors"), strict=True):
        assert torch.equal(logits[row], logits[shared]) == (row == ROWS[0])
