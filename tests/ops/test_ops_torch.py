"""The ops follow torch's rules: schemas, fake tensors, compilation, gradients, other devices."""

import warnings

import pytest
import torch
from steering_modes import ADD, AT_LEAST, AT_MOST, CAP, CLAMP, HALVE, KEEP, LOWER

from faststeer import FaststeerWarning, ops
from faststeer.ops import reference, registration

EPS = 1e-5


# An addition that keeps the norm, a projection, a clamp, a cap; and bounds at the coefficient.
MODES = torch.tensor([KEEP, HALVE, CLAMP, CAP])
BOUNDED = torch.tensor([ADD, LOWER, AT_MOST, AT_LEAST])


def arguments(requires_grad: bool = False, modes: torch.Tensor | None = None) -> list:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_(requires_grad)

    index = torch.tensor([[0, -1, 2], [2, 3, 1]], dtype=torch.int32)
    entries = [leaf(4, 8), index, leaf(2, 3), modes]
    return [leaf(2, 3, 8), leaf(2, 3, 8), leaf(8), EPS, *entries, 1.0]


def without_norm(given: list) -> list:
    return given[:2] + given[4:8]


@pytest.mark.parametrize("entries", [True, False])
def test_opcheck_passes_for_every_op(entries: bool) -> None:
    for requires_grad in (False, True):
        given = arguments(requires_grad)
        if not entries:
            given[4:7] = [None, None, None]
        suffix = "_autograd" if requires_grad else ""
        for name, values in (
            ("steer_add_rms_norm", given),
            ("steer_add", without_norm(given)),
        ):
            op = getattr(torch.ops.faststeer, name + suffix).default
            torch.library.opcheck(op, tuple(values))
    outputs = torch.empty(2, 3, 8), torch.empty(2, 3, 8)
    given = arguments(modes=MODES if entries else None)
    torch.library.opcheck(torch.ops.faststeer.steer_add_rms_norm.out, (*given, *outputs))


@pytest.mark.parametrize("modes", [None, MODES, BOUNDED])
def test_gradients_of_every_tensor_equal_those_of_the_specification(modes) -> None:
    def gradients(function, given):
        tensors = [a for a in given if isinstance(a, torch.Tensor) and a.requires_grad]
        result = function(*given)
        parts = result if isinstance(result, tuple) else (result,)
        loss = sum((part.sin() * (n + 1)).sum() for n, part in enumerate(parts))
        return torch.autograd.grad(loss, tensors)

    given = arguments(True, modes)
    for compiled, specified, values in (
        (ops.steer_add_rms_norm, reference.steer_add_rms_norm, given),
        (ops.steer_add, reference.steer_add, without_norm(given)),
    ):
        found, expected = gradients(compiled, values), gradients(specified, values)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("modes", [None, MODES, BOUNDED])
def test_the_specification_passes_gradcheck_in_float64(modes) -> None:
    given = [a.detach().double() if isinstance(a, torch.Tensor) else a for a in arguments()]
    given[7] = modes
    given[5] = given[5].to(torch.int32)
    for position in (0, 1, 2, 4, 6):
        given[position].requires_grad_()
    assert torch.autograd.gradcheck(reference.steer_add_rms_norm, tuple(given))


def test_ops_compile_without_a_graph_break() -> None:
    given = arguments()[:7]

    @torch.compile(fullgraph=True)
    def compiled(x, residual, weight, vectors, index, coefficient):
        out, h = ops.steer_add_rms_norm(x, residual, weight, EPS, vectors, index, coefficient)
        return out * 2, ops.steer_add(out, h)

    out, h = ops.steer_add_rms_norm(*given)
    found = compiled(*given[:3], *given[4:])
    assert torch.equal(found[0], out * 2)
    assert torch.equal(found[1], h + out)


def test_a_device_without_kernels_runs_the_specification_and_warns_once(monkeypatch) -> None:
    """The test calls the registered fallback as the dispatcher would on such a device."""
    monkeypatch.setattr(registration, "_warned", set())
    given = arguments()
    with pytest.warns(
        FaststeerWarning, match="no compiled kernels for the device type 'cpu': its reference"
    ):
        out, h = registration._without_kernel_norm(*given)
    expected = reference.steer_add_rms_norm(*given)
    assert torch.equal(out, expected[0])
    assert torch.equal(h, expected[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(registration._without_kernel_add(*without_norm(given)), h)
        room = torch.empty_like(h), torch.empty_like(h)
        registration._without_kernel_out(*given, *room)
    assert torch.equal(room[0], out)
    assert torch.equal(room[1], h)


def test_the_dispatcher_reaches_the_fallback_for_devices_without_kernels() -> None:
    for name in (
        *("steer_add_rms_norm", "steer_add_rms_norm.out", "steer_add"),
        *("steer_add_rms_norm_backward", "steer_add_backward"),
    ):
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        assert has(f"faststeer::{name}", "CompositeExplicitAutograd")
        assert has(f"faststeer::{name}", "CPU")


def test_float64_runs_the_specification_in_float64() -> None:
    x, residual = torch.randn(2, 8).double(), torch.randn(2, 8).double()
    out, h = ops.steer_add_rms_norm(x, residual, torch.ones(8).double(), EPS)
    assert out.dtype == h.dtype == torch.float64
    assert torch.equal(h, x + residual)


def test_a_call_on_several_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="on meta, but the residual on cpu"):
        ops.steer_add_rms_norm(None, torch.ones(2, 8), torch.ones(8, device="meta"), EPS)


def test_autograd_notices_that_a_saved_tensor_was_overwritten() -> None:
    saved = torch.randn(2, 8, requires_grad=True) * 1.0
    loss = saved.square().sum()
    x, weight, room = torch.ones(2, 8), torch.ones(8), torch.empty(2, 8)
    with torch.no_grad():
        ops.steer_add_rms_norm_out(None, x, weight, EPS, None, None, None, None, 0.0, room, saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with pytest.raises(ValueError, match="without gradients"):
        ops.steer_add_rms_norm_out(None, saved, weight, EPS, None, None, None, None, 0.0, room, x)


@pytest.mark.filterwarnings("error::faststeer.FaststeerWarning")
def test_given_float64_tensors_are_written_by_the_specification(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "_warned", set())
    residual, weight = torch.randn(2, 8).double(), torch.ones(8).double()
    out, h = torch.empty_like(residual), torch.empty_like(residual)
    ops.steer_add_rms_norm_out(None, residual, weight, EPS, None, None, None, None, 0.0, out, h)
    assert torch.equal(out, reference.rms_norm(residual, weight, EPS))
