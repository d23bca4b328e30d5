"""Decode steps on a GPU, eager, captured and compiled: steering is live, and the host does nothing.

`make cuda-check` runs these; that the same holds on a CPU is shown in test_compiled.py and
test_host_work.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from on_gpu import ON_GPU
from plain_hooks import random_vector
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import faststeer
from faststeer.diagnostics.bench.cuda_graph import StaticDecode
from faststeer.patching.patched import Patched
from faststeer.utils.warnings import FaststeerWarning

pytestmark = ON_GPU

DEVICE = "cuda"
BATCH, PROMPT = 4, 6
# float32 logits of about 4; a graph's kernels may not be those of an eager call.
CLOSE = {"rtol": 0, "atol": 1e-4}
V, W = random_vector("v", [0, 2]), random_vector("w", [1, 2], seed=1, site="resid_mid")
E = random_vector("e", [0, 3], seed=2, site="resid_pre")
ROWS = [{"v": 1.5, "w": -1.0}, {}, {"w": {1: 2.0, 2: 0.5}}, {"v": {0: -2.0}}]

Step = Callable[[], Tensor]


@pytest.fixture
def model(make_tiny) -> Any:
    return make_tiny().to(DEVICE)


@pytest.fixture
def patched(model) -> Iterator[Patched]:
    torch._dynamo.reset()
    with faststeer.patch(model) as handle, torch.inference_mode():
        yield handle
    torch._dynamo.reset()


@pytest.fixture
def static(model) -> StaticDecode:
    ids = torch.randint(0, 500, (BATCH, PROMPT), generator=torch.Generator().manual_seed(0))
    return StaticDecode(model, ids.to(DEVICE), 4)


def eager(static: StaticDecode, model: nn.Module) -> Step:
    """The first step after the prompt."""

    def step() -> Tensor:
        static.rewind()
        return static.step(model).clone()

    return step


def captured(static: StaticDecode, model: nn.Module) -> Step:
    """That step, replayed."""
    for _ in range(2):
        static.rewind()
        static.step(model)
    static.rewind()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = static.step(model)

    def replay() -> Tensor:
        static.rewind()
        graph.replay()
        return logits.clone()

    return replay


def states(patched: Patched) -> Iterator[str]:
    """Steers the model in one way after another, without a change of addresses."""
    yield "idle"
    handle = patched.steer(V)
    yield "one vector"
    handle.coefficient = -2.0
    yield "another coefficient"
    patched.steer(W, 3.0)
    yield "two vectors"
    with patched.rows(ROWS) as rows:
        yield "rows"
        rows[1] = {"w": 5.0}
        yield "another row"
        del rows[1]
        del rows[2]
        yield "fewer rows"
        with patched.off():
            yield "off"
        yield "rows again"
    patched.steer(E, 1.0, name="v")
    yield "another vector"
    patched.clear()
    yield "clear"


def follows(step: Step, static: StaticDecode, model: nn.Module, patched: Patched) -> None:
    """`step` gives in each state what an eager call gives."""
    reference = eager(static, model)
    before, seen = None, []
    for state in states(patched):
        expected = reference()
        torch.testing.assert_close(step(), expected, **CLOSE, msg=lambda m, s=state: f"{s}: {m}")
        if before is not None:
            assert float((expected - before).abs().max()) > 100 * CLOSE["atol"], state
        before = expected
        seen.append(state)
    assert len(seen) == 11


def test_a_captured_step_follows_whatever_changes_between_replays(model, patched, static) -> None:
    follows(captured(static, model), static, model, patched)


def test_a_compiled_step_follows_whatever_changes_without_recompiling(
    model, patched, static
) -> None:
    compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")

    def step() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return eager(static, compiled)()

    for _ in range(3):  # warm-up, recording, replay
        step()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        follows(step, static, model, patched)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_the_compiled_model_becomes_a_cuda_graph_as_the_stock_model_does(
    make_tiny, static, model, patched
) -> None:
    skips = []
    for each in (make_tiny().to(DEVICE), model):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(each, fullgraph=True, mode="reduce-overhead")
        for _ in range(3):
            torch.compiler.cudagraph_mark_step_begin()
            eager(static, compiled)()
        skips.append(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])
    stock, ours = skips
    assert ours <= stock


def test_growth_is_refused_within_a_capture_and_changes_nothing(model, patched, static) -> None:
    patched.steer(V)
    step = eager(static, model)
    before = step()
    graph = torch.cuda.CUDAGraph()
    counter = torch.zeros(1, device=DEVICE)
    with torch.cuda.graph(graph):
        counter += 1
        with (
            pytest.raises(RuntimeError, match="needs more room came inside a graph's capture"),
            patched.rows([{"v": float(i)} for i in range(20)]),
        ):
            pass
    assert torch.equal(step(), before)


def test_growth_after_a_capture_is_announced(model, patched, static) -> None:
    patched.steer(V)
    captured(static, model)
    many = [{"v": float(i)} for i in range(20)]
    with pytest.warns(FaststeerWarning, match="must be recaptured"), patched.rows(many):
        pass


def test_room_that_is_reserved_keeps_a_captured_step_right(model, patched, static) -> None:
    patched.steer(V)
    patched.reserve(rows=BATCH, settings=20)
    replay, reference = captured(static, model), eager(static, model)
    for turn in range(5):
        with patched.rows([{"v": 1.0 + turn + i / 8} for i in range(BATCH)]):
            torch.testing.assert_close(replay(), reference(), **CLOSE)


# What the host does in an eager step. It holds for a step that waits for nothing by itself: with
# a static cache, a given mask and given positions.


@pytest.fixture
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def ways(patched: Patched) -> Iterator[str]:
    yield "idle"
    patched.steer(V)
    patched.steer(W)
    yield "shared"
    with patched.rows(ROWS):
        yield "rows"
    with patched.rows(ROWS[:2]):
        yield "rows of two sequences"


def calls_of_a_step(static: StaticDecode, model: nn.Module) -> Counter[str]:
    """What a step asks of CUDA's runtime, and what it launches."""
    static.rewind()
    static.step(model)
    static.rewind()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        static.step(model)
    names = Counter(event.name for event in profiled.events())
    kinds = ("Memcpy", "Memset", "Synchronize", "Malloc", "Free", "Launch")
    return Counter({n: c for n, c in names.items() if any(kind in n for kind in kinds)})


def test_a_steered_step_asks_of_cuda_what_an_idle_one_does(model, patched, static) -> None:
    """No copy to or from the host, no waiting, no memory, no launch of its own."""
    calls_of_a_step(static, model)  # the profiler's own first time
    found = {way: calls_of_a_step(static, model) for way in ways(patched)}
    assert any("Launch" in name for name in found["idle"])
    for way, calls in found.items():
        assert calls == found["idle"], way


def test_an_idle_step_asks_no_more_of_cuda_than_the_stock_models(
    make_tiny, model, patched, static
) -> None:
    stock = make_tiny().to(DEVICE)
    calls_of_a_step(static, stock)
    theirs, ours = calls_of_a_step(static, stock), calls_of_a_step(static, model)
    assert not ours - theirs


def test_a_steered_step_allocates_what_an_idle_one_does(model, patched, static) -> None:
    def allocated() -> tuple[int, ...]:
        static.rewind()
        before = torch.cuda.memory_stats()
        static.step(model)
        after = torch.cuda.memory_stats()
        keys = ("allocation.all.allocated", "allocated_bytes.all.allocated", "num_device_alloc")
        return tuple(after.get(key, 0) - before.get(key, 0) for key in keys)

    allocated()
    found = {way: allocated() for way in ways(patched)}
    assert found["idle"][0] > 0
    assert found["idle"][2] == 0
    assert set(found.values()) == {found["idle"]}


def test_a_step_never_waits_for_the_device(model, patched, static, no_waiting) -> None:
    """torch raises where it would wait."""
    for _ in ways(patched):
        torch.cuda.set_sync_debug_mode("error")
        static.step(model)
        torch.cuda.set_sync_debug_mode("default")  # what is changed may wait
        static.rewind()
