"""If nothing changed, a step adds no copy, no synchronization and no allocation.

Measured by torch's profiler, over every op of a decode step.
"""

from collections import Counter

import pytest
import torch
from by_token import padded
from plain_hooks import random_vector
from renamed_arguments import past, past_of
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

import faststeer

IDS, MASK = padded((7, 7, 7, 7))
V, W = random_vector("v", [0, 1]), random_vector("w", [0, 1], seed=1, site="resid_mid")
ROWS = [{"v": 1.5, "w": -1.0}, {}, {"w": {0: 2.0, 1: 0.5}}, {"v": {0: -2.0}}]
FUSED = "faststeer::steer_add_rms_norm"
COPIES = {"aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous"}
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}


@pytest.fixture
def model(make_tiny):
    return make_tiny(layers=2)


@pytest.fixture
def patched(model):
    torch._dynamo.reset()
    with faststeer.patch(model) as handle, torch.inference_mode():
        yield handle
    torch._dynamo.reset()


def events_of_a_step(model, batch: int = 4) -> list[FunctionEvent]:
    """Return every op of the second decode step, in order."""
    ids = IDS[:batch]
    cache = past_of(model(ids))
    model(ids[:, :1], **past(model, cache))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(ids[:, :1], **past(model, cache))
    return profiled.events()


def ops_of_a_step(model, batch: int = 4) -> list[str]:
    names = [event.name for event in events_of_a_step(model, batch)]
    return [name for name in names if name != "[memory]"]


def test_a_steered_step_calls_only_the_ops_of_an_idle_step(model, patched) -> None:
    """In the same order, for any number of rows, vectors and sequences per row."""
    ops_of_a_step(model)
    idle = ops_of_a_step(model)
    assert Counter(idle)[FUSED] == 4
    patched.steer(V)
    patched.steer(W)
    for name in ("a", "b", "c"):
        patched.steer(random_vector(name, [0, 1], seed=5))
    assert ops_of_a_step(model) == idle
    for rows in (ROWS, ROWS[:2], ROWS[:1], [{}]):
        with patched.rows(rows):
            assert ops_of_a_step(model) == idle
    patched.steer(V, positions="generated")
    with patched.rows([{"w": 1.0}]):  # no sequence is steered by position
        assert ops_of_a_step(model) == idle


def test_a_fused_op_allocates_its_two_results_and_nothing_else(model, patched) -> None:
    patched.steer(V)
    patched.steer(W)
    hidden = 4 * 64 * 4  # sequences, hidden size, bytes
    for rows in (ROWS, ROWS[:1]):
        with patched.rows(rows):
            fused = [event for event in events_of_a_step(model) if event.name == FUSED]
            assert [event.cpu_memory_usage for event in fused] == [2 * hidden] * 4


def test_positions_are_looked_up_once_before_the_first_layer(model, patched) -> None:
    """Without a copy or a device synchronization; afterwards a step is like an idle one."""

    def from_the_embedding_on(ops: list[str]) -> list[str]:
        return ops[ops.index("aten::embedding") :]

    ops_of_a_step(model)
    idle = ops_of_a_step(model)
    patched.steer(V, positions="generated")
    patched.steer(W, positions=range(2, 9))
    patched.prompt_lengths = [7] * 4
    for rows in (None, ROWS):
        with patched.rows(rows or [{"v": 1.0}]):
            ops = ops_of_a_step(model)
        assert from_the_embedding_on(ops) == from_the_embedding_on(idle)
        extra = ops[: ops.index("aten::embedding")]
        assert len(extra) > 10
        assert not set(extra) & (COPIES | WAITS)


def test_a_compiled_step_calls_the_same_ops_steered_and_idle(model, patched) -> None:
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)

    def ops() -> list[str]:
        compiled(IDS)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            compiled(IDS)
        return [event.name for event in profiled.events()]

    idle = ops()
    assert Counter(idle)[FUSED] == 4
    patched.steer(V)
    patched.steer(W)
    assert ops() == idle
    with patched.rows(ROWS):
        assert ops() == idle
