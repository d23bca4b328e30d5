"""A vector's file as bytes: the formats that hold nothing but data, and no others."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from faststeer import SteeringVector

VECTOR = SteeringVector(
    "myopia",
    {3: torch.arange(4.0), 5: torch.ones(4)},
    "resid_mid",
    {"mode": "project", "method": "mean"},
)


def test_bytes_are_those_of_the_file_and_lose_nothing(tmp_path: Path) -> None:
    VECTOR.save(tmp_path / "v.safetensors")
    content = VECTOR.to_bytes()
    assert content == (tmp_path / "v.safetensors").read_bytes()
    found = SteeringVector.from_bytes(content)
    assert (found.name, found.site, found.metadata) == ("myopia", "resid_mid", VECTOR.metadata)
    assert {layer: own.tolist() for layer, own in found.directions.items()} == {
        layer: own.tolist() for layer, own in VECTOR.directions.items()
    }


def test_bytes_of_a_gguf_file_are_read(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    vector = SteeringVector("myopia", {3: torch.arange(4.0)})
    vector.save(tmp_path / "v.gguf")
    found = SteeringVector.from_bytes((tmp_path / "v.gguf").read_bytes())
    assert (found.name, found.layers) == ("myopia", [3])
    assert found[3].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_bytes_truncated_anywhere_are_an_error() -> None:
    content = VECTOR.to_bytes()
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"safetensors|GGUF"):
            SteeringVector.from_bytes(content[:length])


def test_bytes_of_formats_that_can_hold_more_than_data_are_not_read(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (Path(tmp_path / "harm"),)

    torch.save(VECTOR[3], tmp_path / "vec_layer_3.pt")
    for content in (
        pickle.dumps(Harm()),
        (tmp_path / "vec_layer_3.pt").read_bytes(),
        json.dumps({"directions": {}}).encode(),
        str(tmp_path / "vec_layer_3.pt").encode(),
    ):
        with pytest.raises(ValueError, match="neither a safetensors nor a GGUF file"):
            SteeringVector.from_bytes(content)
    assert not (tmp_path / "harm").exists()
