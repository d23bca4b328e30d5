"""An invalid call of the op raises a clear error before anything is written."""

import pytest
import torch

from faststeer import ops

EPS = 1e-5


def _valid_call() -> dict:
    return {
        "x": torch.randn(2, 3, 8),
        "residual": torch.randn(2, 3, 8),
        "weight": torch.rand(8),
        "eps": EPS,
        "vectors": torch.randn(4, 8),
        "index": torch.zeros(2, 1, dtype=torch.int32),
        "coefficient": torch.ones(2, 1),
        "modes": torch.tensor([[1.0, 0.0, 0.0]]).repeat(4, 1),
        "weight_offset": 0.0,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(2, 3, 7)}, "x has shape"),
        ({"weight": torch.rand(9)}, "weight has shape"),
        ({"weight": torch.rand(8, dtype=torch.float64)}, "weight must be float32"),
        ({"vectors": torch.randn(4, 9)}, "vectors has shape"),
        ({"index": torch.zeros(2, 1, dtype=torch.int64)}, "int32"),
        ({"index": torch.full((2, 1), 4, dtype=torch.int32)}, "index holds 4"),
        ({"index": torch.full((2, 1), -2, dtype=torch.int32)}, "index holds -2"),
        ({"coefficient": torch.ones(2, 2)}, "coefficient must be"),
        (
            {"index": torch.zeros(4, 1, dtype=torch.int32), "coefficient": torch.ones(4, 1)},
            "do not divide the 6 tokens",
        ),
        ({"coefficient": None}, "go together"),
        ({"modes": torch.ones(3, 3)}, "modes must be .* of shape .4, 3."),
        ({"modes": torch.ones(4, 3, dtype=torch.float64)}, "modes must be"),
        (
            {"vectors": None, "index": None, "coefficient": None, "modes": torch.ones(4, 3)},
            "modes are given without vectors",
        ),
    ],
)
def test_an_invalid_call_raises_a_clear_error(change: dict, message: str) -> None:
    call = {**_valid_call(), **change}
    with pytest.raises(ValueError, match=message):
        ops.steer_add_rms_norm(**call)
    out, h = torch.full((2, 3, 8), torch.nan), torch.full((2, 3, 8), torch.nan)
    with pytest.raises(ValueError, match=message):
        ops.steer_add_rms_norm_out(*call.values(), out, h)
    assert out.isnan().all()
    assert h.isnan().all()


def test_outputs_of_another_shape_are_refused() -> None:
    good, bad = torch.empty(2, 3, 8), torch.empty(3, 2, 8)
    for out, h, name in ((bad, good, "out"), (good, bad, "residual_out")):
        with pytest.raises(ValueError, match=f"{name} has shape"):
            ops.steer_add_rms_norm_out(*_valid_call().values(), out, h)


def test_outputs_that_overlap_anything_but_one_input_are_refused() -> None:
    x, residual, weight = torch.randn(4, 8), torch.randn(5, 8), torch.rand(8)
    none = (None, None, None, None, 0.0)
    room = torch.empty(4, 8)
    wide = torch.empty(4, 16)
    bad = [
        (residual[1:], room.clone(), room[:1].expand(4, 8), "rows that overlap"),
        (residual[1:], room, room, "out and residual_out overlap"),
        (residual[1:], room, residual[:-1], "an output overlaps an input"),
        (residual[1:], wide[:, :8], wide[:, 4:12], "out and residual_out overlap"),
    ]
    for own, out, h, message in bad:
        with pytest.raises(ValueError, match=message):
            ops.steer_add_rms_norm_out(x, own, weight, EPS, *none, out, h)
    expected = ops.steer_add_rms_norm(x, residual[1:], weight, EPS)
    side_by_side = wide[:, :8], wide[:, 8:]
    ops.steer_add_rms_norm_out(x, residual[1:], weight, EPS, *none, *side_by_side)
    assert all(torch.equal(a, b) for a, b in zip(side_by_side, expected, strict=True))
