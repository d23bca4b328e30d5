"""Which fallback runs where a device has no compiled kernel, and what the warning says.

No Triton is needed: launches are recorded and computed by the reference, on the CPU.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from steering_modes import ABLATE
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from faststeer import FaststeerWarning, ops
from faststeer.ops import reference, registration, triton_calls
from faststeer.ops.steering_checks import SteeringCall

EPS = 1e-5


def arguments(hidden: int = 8, modes: Tensor | None = None) -> tuple:
    entries = torch.randn(4, hidden), torch.tensor([[0, -1], [3, 1]], dtype=torch.int32)
    x, residual, weight = torch.randn(6, hidden), torch.randn(6, hidden), torch.rand(hidden)
    return x, residual, weight, EPS, *entries, torch.randn(2, 2), modes, 1.0


class Launches(list):
    """Stands for the launch of a kernel; `off` is added to the residual."""

    off = 0.0

    def __call__(
        self, call: SteeringCall, out: Tensor | None, h: Tensor, eps: float, weight_offset: float
    ) -> None:
        self.append(call)
        entries = call.vectors, call.index, call.coefficient, call.modes
        h.copy_(reference.steer_add(call.x, call.residual, *entries) + self.off)
        if out is not None and call.weight is not None:
            out.copy_(reference.rms_norm(h, call.weight[0], eps, weight_offset))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Make the CPU a device type of Triton's, for which no warning was given yet."""
    made = Launches()
    monkeypatch.setattr(registration, "_warned", set())
    monkeypatch.setattr(triton_calls, "_trials", {})
    monkeypatch.setattr(triton_calls, "DEVICE_TYPES", ("cpu",))
    monkeypatch.setattr(triton_calls, "installed", lambda: True)
    monkeypatch.setattr(triton_calls, "_launch", made)
    return made


def run_every_op(given: tuple) -> tuple[Tensor, Tensor]:
    """Call all fallbacks as the dispatcher would, require equal results, and return them."""
    out, h = registration._without_kernel_norm(*given)
    assert torch.equal(registration._without_kernel_add(*given[:2], *given[4:8]), h)
    room = torch.full_like(h, torch.nan), torch.full_like(h, torch.nan)
    registration._without_kernel_out(*given, *room)
    assert torch.equal(room[0], out)
    assert torch.equal(room[1], h)
    return out, h


def assert_right(given: tuple, found: tuple[Tensor, Tensor]) -> None:
    for one, expected in zip(found, reference.steer_add_rms_norm(*given), strict=True):
        assert torch.equal(one, expected)


def test_triton_runs_every_op_after_one_trial_and_one_warning(launches: Launches) -> None:
    given = arguments()
    with pytest.warns(FaststeerWarning) as caught:
        found = run_every_op(given)
    (warning,) = caught
    assert str(warning.message).endswith("type 'cpu': its Triton kernels run instead")
    assert_right(given, found)
    trials = [call for call in launches if call.residual.shape == (6, 300)]
    assert len(trials) == 3
    assert len(launches) == 3 + 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DEVICE_TYPES", ("cuda", "xpu"), "Triton does not support 'cpu'"),
        ("installed", lambda: False, "Triton is not installed"),
    ],
)
def test_without_triton_the_reference_runs_and_the_warning_says_why(
    launches: Launches, monkeypatch: pytest.MonkeyPatch, name: str, value: object, message: str
) -> None:
    monkeypatch.setattr(triton_calls, name, value)
    given = arguments()
    with pytest.warns(FaststeerWarning, match=f"reference .* instead.*{message}") as caught:
        found = run_every_op(given)
    assert len(caught) == 1
    assert_right(given, found)
    assert not launches


def test_kernels_that_fail_their_trial_never_give_a_result(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches.off = 1e-6
    given = arguments()
    with pytest.warns(FaststeerWarning, match="reference .*did not give the reference's residual"):
        assert_right(given, run_every_op(given))
    assert len(launches) == 1

    def no_compiler(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(triton_calls, "_trials", {})
    monkeypatch.setattr(triton_calls, "_launch", no_compiler)
    with pytest.warns(FaststeerWarning, match="failed with RuntimeError: Failed to find C compil"):
        assert_right(given, run_every_op(given))


def test_wrong_projections_fail_the_trial_too(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignoring_modes(call: SteeringCall, out: Tensor | None, h: Tensor, *rest: float) -> None:
        launches(SteeringCall(**{**vars(call), "modes": None}), out, h, *rest)

    monkeypatch.setattr(triton_calls, "_launch", ignoring_modes)
    reason = triton_calls.unavailable_reason(torch.ones(1, 8), None)
    assert reason is not None
    assert "failed with AssertionError" in reason


def test_rows_with_modes_that_fit_no_block_run_on_the_reference(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_calls, "MAX_ONE_BLOCK", 512)
    modes = torch.tensor([ABLATE]).repeat(4, 1)
    for hidden, given_modes, launched in ((512, modes, 1), (513, modes, 0), (513, None, 1)):
        given = arguments(hidden, given_modes)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = len(launches)
            registration._without_kernel_add(*given[:2], *given[4:8])
        taken = [c for c in launches[before:] if c.residual.shape[1] == hidden]
        assert len(taken) == launched
        if launched == 0:
            (warning,) = caught
            assert "modes are limited to rows of 512" in str(warning.message)


def test_a_graph_is_never_captured_around_a_trial(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_calls, "DEVICE_TYPES", ("cuda",))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with FakeTensorMode():
        on_cuda = torch.empty(2, 8, device="cuda")
    reason = triton_calls.unavailable_reason(on_cuda, None)
    assert reason is not None
    assert "graph is captured" in reason
    assert not triton_calls._trials
    triton_calls._trials[on_cuda.device] = None  # one has succeeded before
    assert triton_calls.unavailable_reason(on_cuda, None) is None


@pytest.mark.filterwarnings("error")
def test_the_compiler_sees_shapes_and_runs_no_fallback(launches: Launches) -> None:
    with FakeTensorMode():
        x, residual = (torch.empty(2, 3, 8, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        weight = torch.empty(8, device="cuda")
        out, h = ops.steer_add_rms_norm(x, residual, weight, EPS)
        added = ops.steer_add(x, residual)
    for result in (out, h, added):
        assert (result.shape, result.dtype, result.device.type) == ((2, 3, 8), h.dtype, "cuda")
    assert not launches
