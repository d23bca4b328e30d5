"""One handle serves one thread at a time; a second thread gets an error and can retry later."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from other_threads import elsewhere, in_the_middle
from patched_tiny import IDS, VECTOR, close, logits
from plain_hooks import hooked, random_vector
from transformers import LogitsProcessor

import faststeer

REFUSED = r"another thread is in a {} of this patched model.*copy.deepcopy\(model\) before patch"
NEW = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle:
        handle.steer(VECTOR, 2.0)
        yield handle


def test_a_second_threads_forward_or_change_within_a_forward_is_refused(
    tiny_model, patched
) -> None:
    expected = logits(tiny_model)
    handle = patched["v"]
    rows = patched.rows([{}])

    def set_coefficient() -> None:
        handle.coefficient = 5.0

    refused: list[Callable[[], Any]] = [
        lambda: logits(tiny_model),
        lambda: tiny_model.generate(IDS, max_new_tokens=2, **NEW),
        set_coefficient,
        handle.remove,
        lambda: patched.steer(VECTOR, 3.0),
        lambda: patched.learn(VECTOR, name="l"),
        rows.__enter__,
        lambda: rows.append({}),
        patched.off().__enter__,
        patched.clear,
        patched.unpatch,
    ]
    for act in refused:
        error = in_the_middle(tiny_model, act)
        assert isinstance(error, RuntimeError), act
        with pytest.raises(RuntimeError, match=REFUSED.format("forward")):
            raise error
    assert torch.equal(logits(tiny_model), expected)
    assert len(rows) == 1
    assert [one.name for one in patched.handles] == ["v"]
    assert handle.coefficient == 2.0


def test_a_separate_model_per_thread_is_allowed(make_tiny, tiny_model, patched) -> None:
    other = make_tiny(seed=1)
    with hooked(other.model, [(VECTOR, -1.0, range(4))]):
        expected = logits(other)
    with faststeer.patch(other) as own:
        own.steer(VECTOR, -1.0)
        assert close(in_the_middle(tiny_model, lambda: logits(other)), expected)


class BetweenSteps(LogitsProcessor):
    """Logits processor that runs an action in another thread between two forwards."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.errors: list[BaseException] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        try:
            elsewhere(self.act)
        except RuntimeError as error:
            self.errors.append(error)
        return scores


def test_a_second_thread_between_the_steps_of_a_generate_is_refused(tiny_model, patched) -> None:
    """Its prompts would replace those of the first."""
    patched.steer(random_vector("g", [1], seed=1), 3.0, positions="generated")
    expected = tiny_model.generate(IDS, max_new_tokens=2, **NEW)
    for act in (
        lambda: logits(tiny_model),
        lambda: tiny_model.generate(IDS[:1], max_new_tokens=1, **NEW),
        lambda: patched.steer(VECTOR, 4.0),
    ):
        between_steps = BetweenSteps(act)
        found = tiny_model.generate(IDS, max_new_tokens=2, logits_processor=[between_steps], **NEW)
        assert torch.equal(found, expected)
        assert len(between_steps.errors) == 2
        with pytest.raises(RuntimeError, match=REFUSED.format("generate")):
            raise between_steps.errors[0]


def test_the_generating_thread_may_change_the_steering(tiny_model, patched) -> None:
    class Changes(LogitsProcessor):
        def __call__(self, ids, scores):
            patched["v"].coefficient = 0.0
            return scores

    tiny_model.generate(IDS, max_new_tokens=2, logits_processor=[Changes()], **NEW)
    assert patched["v"].coefficient == 0.0


def test_leaving_a_block_while_another_thread_is_inside_raises(tiny_model, patched) -> None:
    for block in (patched.off(), patched.rows([{}])):
        block.__enter__()
        error = in_the_middle(tiny_model, lambda block=block: block.__exit__(None, None, None))
        with pytest.raises(RuntimeError, match=REFUSED.format("forward")):
            raise error
        assert patched.plan.settings == [{"v": dict.fromkeys(range(4), 2.0)}]  # exited nevertheless


def test_threads_may_alternate_and_stream_from_one_to_the_other(tiny_model, patched) -> None:
    """Like TextIteratorStreamer: the last word arrives before `generate` returns."""
    from queue import Queue

    class Streamer:
        def __init__(self) -> None:
            self.queue: Queue[Any] = Queue()
            self.put = self.queue.put

        def end(self) -> None:
            self.queue.put(None)
            threading.Event().wait(0.05)

    streamer = Streamer()
    options = {"max_new_tokens": 3, "streamer": streamer, **NEW}
    with patched.rows([{"v": 1.0}]):
        worker = threading.Thread(target=tiny_model.generate, args=(IDS[:1],), kwargs=options)
        worker.start()
        while streamer.queue.get(timeout=60) is not None:
            pass
    patched["v"].coefficient = 3.0
    worker.join()
    here = logits(tiny_model)
    assert torch.equal(elsewhere(lambda: logits(tiny_model)), here)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_a_failed_forward_in_one_thread_another_can_run(tiny_model, patched, error) -> None:
    expected = logits(tiny_model)

    def fail(module: Any, args: Any) -> None:
        raise error

    started, finish = threading.Event(), threading.Event()

    def failing() -> None:
        with pytest.raises(error):
            logits(tiny_model)
        started.set()
        finish.wait(60)

    hook = tiny_model.model.layers[1].register_forward_pre_hook(fail)
    with ThreadPoolExecutor(1) as pool:
        alive = pool.submit(failing)
        assert started.wait(60)
        hook.remove()
        patched["v"].coefficient = 2.0
        assert torch.equal(logits(tiny_model), expected)
        finish.set()
        alive.result(60)
