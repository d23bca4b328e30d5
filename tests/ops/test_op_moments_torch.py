"""accumulate_moments refuses invalid calls and follows torch's rules."""

import pytest
import torch
from moments_state import check, empty, exact, random_groups, random_rows
from torch import Tensor

from faststeer import FaststeerWarning, ops
from faststeer.ops import reference, registration

STRIDED = torch.zeros(1, 16, dtype=torch.float64)[:, ::2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": torch.zeros(5, dtype=torch.int32)}, "group has shape"),
        ({"group": torch.zeros(6, dtype=torch.int64)}, "group must be .*int32"),
        ({"group": torch.tensor([0, 1, 2, -1, 3, 0], dtype=torch.int32)}, "group holds 3"),
        ({"group": torch.tensor([0, 1, 2, -1, -2, 0], dtype=torch.int32)}, "group holds -2"),
        ({"group": None}, "there are 3 groups"),
        ({"count": torch.zeros(2, dtype=torch.int64)}, "mean has shape"),
        ({"count": torch.zeros(3, dtype=torch.int32)}, "count must be .*int64"),
        ({"mean": torch.zeros(3, 7, dtype=torch.float64)}, "mean has shape"),
        ({"mean": torch.zeros(24, dtype=torch.float64)}, "mean has shape"),
        ({"m2": torch.zeros(3, 8)}, "m2 must be .*float64"),
        ({"m2": torch.zeros(3, 1, dtype=torch.float64)}, "m2 has shape"),
        ({"x": torch.zeros(2, 3, 0)}, "x has shape"),
        ({"x": torch.tensor(1.0)}, "x has shape"),
        ({"mean": torch.zeros(3, 8, dtype=torch.float64, device="meta")}, "on meta"),
        ({"mean": torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)}, "without gradients"),
    ],
)
def test_an_invalid_call_is_refused_before_anything_is_written(
    dtype: torch.dtype, change: dict, message: str
) -> None:
    call = {"x": torch.ones(2, 3, 8), "group": torch.zeros(6, dtype=torch.int32)}
    call |= empty(3, 8)._asdict() | change
    call["x"] = call["x"].to(dtype)
    with pytest.raises(ValueError, match=message):
        ops.accumulate_moments(**call)
    for name in ("count", "mean", "m2"):
        assert call[name].is_meta or not call[name].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(6, 8, dtype=torch.int32)}, "x must be float32"),
        ({"count": torch.tensor(0)}, "count must be a contiguous"),
        ({"count": torch.zeros(2, dtype=torch.int64)[::2]}, None),
        ({"mean": STRIDED}, "mean must be a contiguous"),
        ({"m2": STRIDED}, "m2 must be a contiguous"),
        ({"mean": torch.zeros(8, 1, dtype=torch.float64).T}, None),
        ({"m2": "mean"}, "mean overlaps m2; give it memory of its own"),
    ],
)
def test_a_state_that_the_kernel_could_not_write_is_refused(
    change: dict, message: str | None
) -> None:
    call = {"x": torch.ones(6, 8), "group": None} | empty(1, 8)._asdict() | change
    if call["m2"] == "mean":
        call["m2"] = call["mean"]
    if message is None:  # one element or row: contiguous, whatever its strides
        ops.accumulate_moments(**call)
        assert call["count"].item() == 6
        assert torch.equal(call["mean"], torch.ones(1, 8).double())
        return
    with pytest.raises(ValueError, match=message):
        ops.accumulate_moments(**call)
    for name in ("count", "mean", "m2"):
        assert not call[name].any()


@pytest.mark.parametrize("name", ["x", "group"])
@pytest.mark.parametrize("written", ["count", "mean", "m2"])
def test_a_state_over_what_is_read_is_refused(name: str, written: str) -> None:
    call = {"x": torch.ones(3, 8), "group": torch.tensor([0, -1, 0], dtype=torch.int32)}
    call |= empty(1, 8)._asdict()
    room = torch.zeros(64, dtype=torch.int64)
    for key, begin in ((name, 0), (written, (call[name].nbytes - 1) // 8)):
        place = room[begin : begin + -(-call[key].nbytes // 8)].view(call[key].dtype)
        call[key] = place[: call[key].numel()].view_as(call[key]).copy_(call[key])
    before = room.clone()
    with pytest.raises(ValueError, match=f"^{written} overlaps {name}; give it memory of its own"):
        ops.accumulate_moments(**call)
    assert torch.equal(room, before)


def test_opcheck_of_torch_passes() -> None:
    op = torch.ops.faststeer.accumulate_moments.default
    for x in (torch.randn(2, 3, 8), torch.randn(6, 8).bfloat16(), torch.randn(0, 8)):
        torch.library.opcheck(op, (x, None, *empty(1, 8)))
        groups = random_groups(x.numel() // 8, 3).view(x.shape[:-1])
        torch.library.opcheck(op, (x, groups, *empty(3, 8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_compiles_it_without_a_graph_break(dtype: torch.dtype) -> None:
    @torch.compile(fullgraph=True)
    def compiled(x: Tensor, group: Tensor, count: Tensor, mean: Tensor, m2: Tensor) -> Tensor:
        ops.accumulate_moments(x * 2, group, count, mean, m2)
        ops.accumulate_moments(x - 1, group, count, mean, m2)
        return mean + 1

    x, group = random_rows(50, 33, dtype), random_groups(50, 3)
    found, expected = empty(3, 33), empty(3, 33)
    after = compiled(x, group, *found)
    ops.accumulate_moments(x * 2, group, *expected)
    ops.accumulate_moments(x - 1, group, *expected)
    assert torch.equal(found.count, expected.count)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found.m2, expected.m2, rtol=1e-14, atol=0)
    assert torch.equal(after, found.mean + 1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autograd_of_torch_notices_that_a_saved_state_was_overwritten(
    dtype: torch.dtype, compiled: bool
) -> None:
    accumulate = torch.compile(ops.accumulate_moments) if compiled else ops.accumulate_moments
    for name in ("mean", "m2"):
        state = empty(1, 8)
        leaf = torch.ones(1, 8, dtype=torch.float64, requires_grad=True)
        saved = getattr(state, name)
        loss = (leaf * saved).sum()
        accumulate(torch.randn(5, 8, dtype=dtype), None, *state)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_statistics_of_rows_that_torch_differentiates_carry_no_gradient() -> None:
    x = torch.randn(5, 8, requires_grad=True)
    for rows in (x * 2, x.double() * 2):
        state = empty(1, 8)
        ops.accumulate_moments(rows, None, *state)
        assert not state.mean.requires_grad
        check(state, exact(rows.detach(), None, 1))
        rows.sum().backward()
        assert torch.equal(x.grad, torch.full_like(x, 2))
        x.grad = None


def test_a_device_of_torch_without_kernels_runs_the_specification(monkeypatch) -> None:
    monkeypatch.setattr(registration, "_warned", set())
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has("faststeer::accumulate_moments", "CompositeExplicitAutograd")
    assert has("faststeer::accumulate_moments", "CPU")
    x, group = random_rows(50, 33, torch.bfloat16), random_groups(50, 3)
    found, expected = empty(3, 33), empty(3, 33)
    with pytest.warns(FaststeerWarning, match="no compiled kernels for the device type 'cpu'"):
        registration._without_kernel_moments(x, group, *found)
    reference.accumulate_moments(x, group, *expected)
    assert all(map(torch.equal, found, expected))
    with pytest.raises(ValueError, match="group holds"):
        registration._without_kernel_moments(x, group + 1, *found)
    assert all(map(torch.equal, found, expected))
