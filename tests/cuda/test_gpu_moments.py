"""The machine code of accumulate_moments keeps its bounds on a GPU."""

import pytest
import torch
from on_gpu import DTYPES, ON_GPU, new_state

from faststeer import ops

pytestmark = ON_GPU


def test_moments_can_be_captured() -> None:
    x = torch.randn(3000, 576, device="cuda")
    state = new_state(1, 576)
    ops.accumulate_moments(x, None, *state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.accumulate_moments(x, None, *state)
    rows = [x.double().clone()]
    for _ in range(3):
        x.normal_()
        rows.append(x.double().clone())
        graph.replay()
    exact = torch.cat(rows)
    assert int(state[0]) == len(exact)
    torch.testing.assert_close(state[1][0], exact.mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        state[2][0], (exact - exact.mean(0)).square().sum(0), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [7, 576, 4096])
def test_small_moments_are_those_of_float64(dtype: torch.dtype, hidden: int) -> None:
    for tokens in (1, 2, 5, 1000, 5000):
        x = (torch.randn(tokens, hidden, device="cuda") + 3).to(dtype)
        group = torch.randint(-1, 2, (tokens,), dtype=torch.int32, device="cuda")
        state = new_state(2, hidden)
        ops.accumulate_moments(x, group, *state)
        for g in range(2):
            rows = x[group == g].double()
            assert int(state[0][g]) == len(rows)
            if len(rows) == 0:
                continue
            torch.testing.assert_close(state[1][g], rows.mean(0), rtol=1e-6, atol=1e-9)
            exact = (rows - rows.mean(0)).square().sum(0)
            torch.testing.assert_close(state[2][g], exact, rtol=1e-6, atol=1e-12)


def test_moments_of_large_means_keep_their_digits() -> None:
    x = 1e6 + torch.randn(20000, 4096, device="cuda")
    state = new_state(1, 4096)
    ops.accumulate_moments(x, None, *state)
    exact = x.double()
    assert float((state[1][0] / exact.mean(0) - 1).abs().max()) < 1e-6
    assert float((state[2][0] / 20000 / exact.var(0, correction=0) - 1).abs().max()) < 1e-6


def test_many_groups_take_no_more_scratch_memory_than_64_mib() -> None:
    x = torch.randn(2000, 4096, device="cuda").bfloat16()
    group = torch.randint(-1, 300, (2000,), dtype=torch.int32, device="cuda")
    state = new_state(300, 4096)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.accumulate_moments(x, group, *state)
    assert torch.cuda.max_memory_allocated() - before <= 64 << 20
    for g in range(300):
        rows = x[group == g].double()
        assert int(state[0][g]) == len(rows)
        if len(rows) > 0:
            torch.testing.assert_close(state[1][g], rows.mean(0), rtol=1e-6, atol=1e-6)
