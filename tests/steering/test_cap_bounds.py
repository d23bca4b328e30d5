"""The bounds of caps: refused before anything changes, and stated by vectors in their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from plain_hooks import random_vector
from torch.nn.functional import normalize

import faststeer
from faststeer import FaststeerWarning, SteeringVector
from faststeer.evaluate.provenance import vector_hash

IDS = torch.arange(20, 44).view(3, 8)
D = normalize(torch.randn(64, generator=torch.Generator().manual_seed(7)), dim=0)
VECTOR = SteeringVector("axis", {0: 5 * D, 2: 5 * D})


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ({}, ValueError, "a cap on 'axis' needs a bound, and it states none"),
        ({"ceiling": -1.0, "floor": 1.0}, ValueError, "the ceiling -1 is under the floor 1"),
        ({"ceiling": {0: 1.0, 2: -2.0}, "floor": 0}, ValueError, "-2 is under the floor 0 at la"),
        ({"ceiling": float("nan")}, ValueError, "ceiling is nan; expected a finite number"),
        ({"floor": {0: float("inf")}}, ValueError, "floor of layer 0 is inf; expected a finite"),
        ({"floor": 1e39}, ValueError, "that float32 can hold"),
        ({"floor": True}, TypeError, "floor is a bool; expected a number"),
        ({"floor": {3: 1.0}}, ValueError, "no direction for layer 3"),
        ({"floor": {2: 1.0}, "layers": 0}, ValueError, "floor names layer 2, and the layers to"),
        ({"floor": {2: 1.0}, "layers": [0, 2]}, ValueError, "layer 0 has neither a floor nor"),
        ({"ceiling": 1.0, "fraction": float("nan")}, ValueError, "fraction of 'axis' is nan"),
        ({"ceiling": 1.0, "layer": 0}, TypeError, "did you mean layers="),
        ({"ceiling": 1.0, "when": 3}, TypeError, "when= got a int"),
    ],
)
def test_impossible_caps_are_refused_before_anything_changes(how, kind, message, patched) -> None:
    with pytest.raises(kind, match=message):
        patched.cap(VECTOR, **how)
    assert patched.handles == []
    with pytest.raises(ValueError, match="a zero cannot be normalised"):
        patched.cap(SteeringVector("zero", {1: 0 * D}), ceiling=1.0)


def test_bounds_that_a_row_or_a_handle_cannot_have_are_refused(patched) -> None:
    handle = patched.cap(VECTOR, ceiling=1.0)
    added = patched.steer(random_vector("v", [1]))
    for row, message in (
        ({"axis": {"ceiling": float("nan")}}, "row 0, 'axis': ceiling is nan"),
        ({"axis": {"ceiling": 1.0, "floor": 2.0}}, "the ceiling 1 is under the floor 2"),
        ({"axis": {"top": 1.0}}, "top is unknown; expected floor, ceiling or fraction"),
        ({"axis": {"fraction": 1.0}}, "a cap needs a bound"),
        ({"axis": {"ceiling": {1: 1.0}}}, "no direction for layer 1"),
        ({"v": {"ceiling": 1.0}}, "row 0, 'v': mode 'add' has no ceiling"),
    ):
        with pytest.raises(ValueError, match=message):
            patched.rows([row])
    with pytest.raises(ValueError, match="the ceiling 1 is under the floor 2"):
        handle.floor = 2.0
    with pytest.raises(ValueError, match="needs a bound"):
        handle.ceiling = None
    with pytest.raises(ValueError, match="'v' is in mode 'add', which has no bounds"):
        added.floor = 1.0
    assert (handle.floor, handle.ceiling, added.floor) == (None, 1.0, None)


def test_stated_bounds_are_the_default_and_survive_a_file(
    tiny_model, patched, tmp_path: Path
) -> None:
    vector = SteeringVector("axis", {0: D, 2: D, 3: D})
    patched.cap(vector, ceiling={0: 0.1, 2: 0.2}, floor=-0.1)
    expected = tiny_model(IDS).logits
    patched.clear()
    vector.for_use(mode="cap", ceiling={0: 0.1, 2: 0.2}, floor={0: -0.1, 2: -0.1}).save(
        tmp_path / "v.safetensors"
    )
    loaded = SteeringVector.load(tmp_path / "v.safetensors")
    for use in (patched.steer, patched.cap):
        handle = use(loaded)
        assert (handle.layers, handle.floor) == ([0, 2], -0.1)
        assert torch.equal(tiny_model(IDS).logits, expected)
        patched.clear()
    assert loaded.metadata["layers"] == [0, 2]
    handle = patched.steer(loaded, layers=2)
    assert (handle.layers, handle.ceiling) == ([2], 0.2)
    with pytest.raises(ValueError, match="needs a bound, and it states none of its layers"):
        patched.steer(loaded.select(3))
    with pytest.warns(FaststeerWarning, match="states mode 'cap', but is used with mode 'add'"):
        patched.steer(loaded, mode="add", name="added")
    other = vector.for_use(mode="cap", ceiling=5.0)
    assert vector_hash(other) != vector_hash(loaded)
    for floor in (0.0, -1.0):  # of another bound
        with pytest.raises(ValueError, match="states floor"):
            other + vector.for_use(mode="cap", floor=floor, ceiling=5.0)
    assert "ceiling" not in other.for_use(mode="project").metadata
    for use, message in (
        ({"mode": "cap"}, "mode 'cap' needs bounds"),
        ({"mode": "clamp", "floor": 1.0}, "mode 'clamp' has no floor or ceiling"),
        ({"mode": "cap", "floor": 1.0, "ceiling": 0.0}, "is under the floor"),
    ):
        with pytest.raises(ValueError, match=message):
            vector.for_use(**use)
    broken = SteeringVector("b", {1: D}, metadata={"mode": "cap", "floor": "low"})
    with pytest.raises(ValueError, match="vector 'b' states a floor, which is a str"):
        patched.steer(broken)
