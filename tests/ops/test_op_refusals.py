"""An invalid call of the op raises a clear error before anything is written."""

from collections.abc import Callable

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
        "modes": torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]).repeat(4, 1),
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
        ({"modes": torch.ones(3, 5)}, "modes must be .* of shape .4, 5."),
        ({"modes": torch.ones(4, 3)}, "modes must be .* of shape .4, 5."),
        ({"modes": torch.ones(4, 5, dtype=torch.float64)}, "modes must be"),
        (
            {"vectors": None, "index": None, "coefficient": None, "modes": torch.ones(4, 5)},
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
        (residual[1:], room, residual[:-1], "residual_out overlaps residual; they may be one"),
        (residual[1:], wide[:, :8], wide[:, 4:12], "out and residual_out overlap"),
    ]
    for own, out, h, message in bad:
        with pytest.raises(ValueError, match=message):
            ops.steer_add_rms_norm_out(x, own, weight, EPS, *none, out, h)
    expected = ops.steer_add_rms_norm(x, residual[1:], weight, EPS)
    side_by_side = wide[:, :8], wide[:, 8:]
    ops.steer_add_rms_norm_out(x, residual[1:], weight, EPS, *none, *side_by_side)
    assert all(torch.equal(a, b) for a, b in zip(side_by_side, expected, strict=True))


OUT = torch.ops.faststeer.steer_add_rms_norm.out
EVERY_OUT_CALL = pytest.mark.parametrize(
    "run", [ops.steer_add_rms_norm_out, OUT], ids=["direct", "dispatched"]
)


def _call_of_four_rows() -> dict:
    """Rows of 8 elements, where any input can share memory with an output."""
    return {
        "x": torch.randn(4, 8),
        "residual": torch.randn(4, 8),
        "weight": torch.rand(8),
        "eps": EPS,
        "vectors": torch.randn(4, 8),
        "index": torch.tensor([[3, 2], [1, 0], [0, 3], [2, 1]], dtype=torch.int32),
        "coefficient": torch.randn(4, 2),
        "modes": torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]).repeat(4, 1),
        "weight_offset": 0.0,
    }


@EVERY_OUT_CALL
@pytest.mark.parametrize("written", ["out", "residual_out"])
@pytest.mark.parametrize("name", ["weight", "vectors", "index", "coefficient", "modes"])
def test_an_output_over_an_input_that_other_rows_read_is_refused(
    run: Callable[..., None], name: str, written: str
) -> None:
    call = _call_of_four_rows()
    room = torch.zeros(6, 8)
    inside = room.view(call[name].dtype).flatten()[9 : 9 + call[name].numel()]
    call[name] = inside.view_as(call[name]).copy_(call[name])
    before = room.clone()
    outputs = {"out": torch.empty(4, 8), "residual_out": torch.empty(4, 8), written: room[1:5]}
    with pytest.raises(ValueError, match=f"^{written} overlaps {name}; give it memory of its own"):
        run(*call.values(), *outputs.values())
    assert torch.equal(room.view(torch.int32), before.view(torch.int32))


@EVERY_OUT_CALL
@pytest.mark.parametrize("written", ["out", "residual_out"])
@pytest.mark.parametrize("name", ["x", "residual"])
def test_an_output_takes_the_place_of_a_whole_addend_and_of_no_part_of_one(
    run: Callable[..., None], name: str, written: str
) -> None:
    call, room = _call_of_four_rows(), torch.randn(5, 8)
    expected = ops.steer_add_rms_norm(**call | {name: room[1:].clone()})
    outputs = {"out": torch.empty(4, 8), "residual_out": torch.empty(4, 8)}
    shifted = {**outputs, written: room[:4]}
    with pytest.raises(ValueError, match=f"^{written} overlaps {name}; they may be one tensor"):
        run(*(call | {name: room[1:]}).values(), *shifted.values())
    outputs[written] = room[1:]
    run(*(call | {name: room[1:]}).values(), *outputs.values())
    assert all(torch.equal(a, b) for a, b in zip(outputs.values(), expected, strict=True))


@EVERY_OUT_CALL
def test_outputs_beside_inputs_in_the_same_rows_are_written(run: Callable[..., None]) -> None:
    call = _call_of_four_rows()
    expected = ops.steer_add_rms_norm(**call)
    wide = torch.empty(4, 40)
    out, weight, h, vectors, x = wide.split(8, dim=1)
    for name, place in (("weight", weight[2]), ("vectors", vectors), ("x", x)):
        call[name] = place.copy_(call[name])
    run(*call.values(), out, h)
    assert torch.equal(out, expected[0])
    assert torch.equal(h, expected[1])


@EVERY_OUT_CALL
@pytest.mark.parametrize("missing", ["weight", "out", "residual_out"])
def test_a_norm_without_its_weight_or_an_output_is_refused(
    run: Callable[..., None], missing: str
) -> None:
    outputs = {"out": torch.zeros(2, 3, 8), "residual_out": torch.zeros(2, 3, 8)}
    call = _valid_call() | outputs | {missing: None}
    with pytest.raises(ValueError, match=f"^{missing} is None; expected a tensor"):
        run(*call.values())
    assert not any(output.any() for output in outputs.values())
    if missing == "weight":
        with pytest.raises(ValueError, match=r"^weight is None; expected a tensor"):
            ops.steer_add_rms_norm(**_valid_call() | {"weight": None})
