"""The machine code of the backward pass keeps its bounds on a GPU."""

import pytest
import torch
from backward_calls import EPS, NAMES, BackwardCall, random_call
from on_gpu import DTYPES, ON_GPU, laid_out
from torch import Tensor

from faststeer import ops

pytestmark = ON_GPU

NORM = torch.ops.faststeer.steer_add_rms_norm_backward.default
ADD = torch.ops.faststeer.steer_add_backward.default


def on_gpu(call: BackwardCall) -> list:
    return [v.cuda() if torch.is_tensor(v) else v for v in vars(call).values()]


def run(call: BackwardCall, x_dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the gradients, on the CPU."""
    given = on_gpu(call)
    if call.grad_out is None:
        found = dict(zip(NAMES[3:], ADD(given[1], *given[6:], True, True), strict=True))
    else:
        found = dict(zip(NAMES, NORM(*given, x_dtype, True, True, True, True), strict=True))
    absent = {"grad_x"} if x_dtype is None else set()
    if call.vectors is None:
        absent |= {"grad_vectors", "grad_coefficient"}
    return {name: gradient.cpu() for name, gradient in found.items() if name not in absent}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 111, 4096, 11008])
@pytest.mark.parametrize("layout", ["dense", "sliced", "odd"])
def test_small_gradients_are_those_of_float64(dtype: torch.dtype, hidden: int, layout: str) -> None:
    for tokens, entries in ((1, 1), (4, 33), (36, 0), (36, 4)):
        for settings in {1, tokens}:
            call = random_call(tokens, hidden, settings, entries, dtype=dtype, offset=1.0)
            for name in ("grad_out", "grad_residual", "h"):
                setattr(call, name, laid_out(getattr(call, name), layout))
            call.require(run(call, torch.bfloat16))
            if entries > 0:
                call.grad_out = call.h = call.weight = call.inverse_rms = None
                call.require(run(call))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", [1, 30, 6000])
def test_many_rows_repeat_to_the_bit(dtype: torch.dtype, settings: int) -> None:
    call = random_call(6000, 4096, settings, 4, dtype=dtype)
    first = run(call)
    call.require(first)
    for _ in range(5):
        for name, gradient in run(call).items():
            assert torch.equal(gradient, first[name]), name


def test_a_backward_pass_can_be_captured() -> None:
    call = random_call(64, 4096, 64, 4, dtype=torch.bfloat16)
    given = on_gpu(call)
    NORM(*given, None, True, True, True, True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = NORM(*given, None, True, True, True, True)
    for seed in (1, 2):
        call = random_call(64, 4096, 64, 4, dtype=torch.bfloat16, seed=seed)
        for held, new in zip(given, vars(call).values(), strict=True):
            if torch.is_tensor(held):
                held.copy_(new)
        graph.replay()
        results = dict(zip(NAMES, found, strict=True))
        del results["grad_x"]
        call.require({name: gradient.cpu() for name, gradient in results.items()})


def test_an_unknown_id_is_nan_forward_and_backward_and_no_fault() -> None:
    residual = torch.randn(4, 4096, device="cuda").bfloat16().requires_grad_()
    weight = torch.rand(4096, device="cuda").bfloat16().requires_grad_()
    vectors = torch.randn(5, 4096, device="cuda", requires_grad=True)
    index = torch.tensor([[0, -1], [1, 2**31 - 1], [2, 3], [-2, 4]], dtype=torch.int32).cuda()
    coefficient = torch.randn(4, 2, device="cuda", requires_grad=True)
    entries = (vectors, index, coefficient)
    out, _ = ops.steer_add_rms_norm(None, residual, weight, EPS, *entries)
    out.sum().backward()
    torch.cuda.synchronize()
    assert residual.grad.isnan().all(1).tolist() == [False, True, False, True]
    assert not residual.grad[[0, 2]].isnan().any()
    assert vectors.grad.isnan().all(1).tolist() == [False, True, False, False, True]
    assert coefficient.grad.isnan().all(1).tolist() == [False, True, False, True]


def test_scratch_is_bounded_and_freed() -> None:
    call = random_call(16384, 4096, 16384, 4, dtype=torch.bfloat16)
    given = on_gpu(call)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = NORM(*given, None, True, True, True, True)
    results = sum(gradient.nbytes for gradient in found)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < results + (80 << 20)  # the segments of one wave, and partial sums
    assert torch.cuda.memory_allocated() - before < results + (1 << 20)
