"""Files that version 0.1 wrote before its modules moved load unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import faststeer
from faststeer.evaluate import Records

EARLIER = Path(__file__).parent / "earlier_files"


def test_a_vector_loads_with_its_stated_use() -> None:
    vector = faststeer.SteeringVector.load(EARLIER / "vector.safetensors")
    assert (vector.name, vector.site, vector.layers) == ("calm", "resid_mid", [1, 3])
    assert vector.metadata == {
        "model": "tiny",
        "method": "mean",
        "read_token": "-1",
        "mode": "clamp",
        "positions": "-3:0",
    }
    torch.manual_seed(0)
    for layer in (1, 3):
        assert torch.equal(vector.directions[layer], torch.randn(8))


@pytest.mark.parametrize("file", ["vector.gguf", "caa", "lm_eval.pt"])
def test_a_vector_loads_from_foreign_formats(file: str) -> None:
    vector = faststeer.SteeringVector.load(EARLIER / file)
    assert vector.layers == [1, 3]
    assert torch.equal(vector.directions[1], torch.arange(8.0))
    assert torch.equal(vector.directions[3], torch.ones(8))


def test_moments_load() -> None:
    moments = faststeer.Moments.load(EARLIER / "moments.safetensors")
    assert moments.count.tolist() == [10, 0]
    torch.manual_seed(0)
    torch.randn(8), torch.randn(8)  # the vector's
    rows = torch.randn(2, 5, 8).flatten(0, 1).double()
    torch.testing.assert_close(moments.mean[0], rows.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments.variance[0], rows.var(0, correction=0), rtol=1e-5, atol=1e-6)


def test_a_sweep_that_was_interrupted_resumes_from_its_records(tmp_path: Path) -> None:
    file = tmp_path / "sweep.jsonl"
    file.write_bytes((EARLIER / "sweep.jsonl").read_bytes())
    records = Records(file, {"of": "a test", "seed": 1})
    found = [record["scores"]["all"]["accuracy"] for record in records.by_key.values()]
    assert found == [0.5, 0.75]
    records.add([({"calm": {3: 1.0}}, {"scores": {"all": {"accuracy": 1.0}}, "items": {}})])
    assert len(file.read_text().splitlines()) == 4
