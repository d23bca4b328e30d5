"""The host benchmark measures the variants that it names."""

import json

import host
import torch


def test_every_variant_is_measured_per_layer_and_against_stock(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    host.main(rounds=2, output=tmp_path / "host.json")
    record = json.loads((tmp_path / "host.json").read_text())["decode"]
    assert list(record) == [
        "stock",
        "plain hooks",
        "faststeer, idle",
        "faststeer, 1 vector",
        "faststeer, 1 vector at generated tokens",
    ]
    assert record["stock"]["against_stock"] == 1
    assert all(own["microseconds_per_layer"] > 0 for own in record.values())


def test_the_variant_at_some_positions_steers_them_and_no_others() -> None:
    model = host.tiny_llama()
    variants = host.variants_of(model)
    ids = torch.randint(256, (1, host.PROMPT + 2))
    with torch.inference_mode():
        logits = {name: own(input_ids=ids).logits for name, own in variants.items()}
    prompt = host.PROMPT
    some, idle = logits[host.SOME], logits["faststeer, idle"]
    assert torch.equal(some[:, :prompt], idle[:, :prompt])
    assert not torch.equal(some[:, prompt:], idle[:, prompt:])
