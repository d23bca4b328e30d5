"""Vectors are added, replaced and removed in an engine that has requests running."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, cast

import pytest
from small_engine import (
    HIDDEN,
    A,
    B,
    C,
    Requests,
    Small,
    answer,
    expected_tokens,
    make_vector,
    prompt,
)

from faststeer import SteeringVector
from faststeer.vllm import add_vector, remove_vector, vectors

if importlib.util.find_spec("vllm.v1") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)


@pytest.fixture
def crowded(small: Small) -> Iterator[Any]:
    """An engine whose cache has 12 blocks. It stands before the tests that share another."""
    with small.engine(3, num_gpu_blocks_override=12) as llm:
        yield llm


def test_preempted_requests_keep_their_content(
    crowded: Any, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four requests of 6 blocks each."""
    llm = crowded
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    preempted = []
    stock = scheduler._preempt_request

    def preempt(request: Any, *args: Any, **kwargs: Any) -> Any:
        preempted.append(request.request_id)
        return stock(request, *args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", preempt)
    requests = Requests(llm)
    old = [requests.add(prompt(seed, 60), "a", most=120) for seed in range(4)]
    while not preempted:
        requests.step()
    add_vector(llm, "a", B)
    new = requests.add(prompt(9), "a")
    requests.finish()
    for seed, request in enumerate(old):
        assert requests.tokens(request) == expected_tokens(small.model, prompt(seed, 60), A, 120)
    assert requests.tokens(new) == expected_tokens(small.model, prompt(9), B)


def test_an_added_vector_steers_as_patch_does(two: Any, small: Small) -> None:
    add_vector(two, "b", B)
    for seed in range(3):
        expected = expected_tokens(small.model, prompt(seed), B)
        assert expected != expected_tokens(small.model, prompt(seed), None)
        assert expected != expected_tokens(small.model, prompt(seed), A)
        assert answer(two, prompt(seed), "b") == expected
        assert answer(two, prompt(seed), "a") == expected_tokens(small.model, prompt(seed), A)


def test_what_is_served_is_described(two: Any) -> None:
    add_vector(two, "b", make_vector(5, layers=[1]).for_use(mode="project", coefficient=0.5))
    found = vectors(two)
    assert list(found) == ["a", "b"]
    assert found["b"]["site"] == "resid_post"
    assert found["b"]["layers"] == [1]
    assert found["b"]["norms"] == [pytest.approx(float(make_vector(5, [1])[1].norm()))]
    assert found["b"]["stated"] == {"mode": "project", "coefficient": 0.5}
    assert found["a"]["digest"] != found["b"]["digest"]


def test_replacing_leaves_running_and_waiting_requests_bit_for_bit_as_they_were(two: Any) -> None:
    def run(replace: bool) -> list[list[dict[int, float]]]:
        add_vector(two, "a", A)
        if not replace:
            add_vector(two, "b", B)
        requests = Requests(two)
        running = requests.add(prompt(0), "a", most=16)
        requests.step(4)
        waiting = requests.add(prompt(1), "a")
        if replace:
            add_vector(two, "a", B)
        new = requests.add(prompt(2), "a" if replace else "b")
        requests.finish()
        if not replace:
            remove_vector(two, "b")
        return [requests.logprobs(own) for own in (running, waiting, new)]

    kept, replaced = run(replace=False), run(replace=True)
    assert replaced == kept
    # The wrong content would have shown: it gives other numbers for the same prompts.
    requests = Requests(two)
    wrong = [requests.add(prompt(seed), "a", most) for seed, most in ((0, 16), (1, 8))]
    add_vector(two, "a", A)
    wrong.append(requests.add(prompt(2), "a"))
    requests.finish()
    for request, right in zip(wrong, kept, strict=True):
        assert [*requests.logprobs(request)[-1].values()] != [*right[-1].values()]


def test_a_removed_vector_is_refused_to_new_requests_and_kept_by_running_ones(
    two: Any, small: Small
) -> None:
    from vllm.exceptions import VLLMValidationError

    add_vector(two, "b", B)
    requests = Requests(two)
    running = requests.add(prompt(0), "b")
    requests.step(3)
    remove_vector(two, "b")
    with pytest.raises(VLLMValidationError, match=r"vector 'b' is unknown; this engine serves a"):
        requests.add(prompt(0), "b")
    requests.finish()
    assert requests.tokens(running) == expected_tokens(small.model, prompt(0), B)
    with pytest.raises(ValueError, match=r"vector 'b' is unknown; this engine serves a"):
        remove_vector(two, "b")


def test_cached_blocks_of_another_content_are_not_reused(two: Any, small: Small) -> None:
    tokens = prompt(4, length=80)  # two full blocks and a part

    def cached(name: str | None) -> tuple[int, list[int]]:
        requests = Requests(two)
        request = requests.add(tokens, name)
        requests.finish()
        return requests.finished[request].num_cached_tokens, requests.tokens(request)

    expected = {own: expected_tokens(small.model, tokens, own) for own in (A, B)}
    assert cached("a") == (0, expected[A])
    assert cached("a") == (64, expected[A])
    add_vector(two, "a", B)
    assert cached("a") == (0, expected[B])
    add_vector(two, "again", A)  # the first content under another name has its blocks still
    assert cached("again") == (64, expected[A])
    assert cached("a") == (64, expected[B])


def test_wrong_vectors_are_refused_and_change_nothing(two: Any) -> None:
    before = vectors(two)
    for vector, reason in (
        (make_vector(1, hidden=HIDDEN + 1), f"hidden size {HIDDEN + 1}, but the model's is 64"),
        (make_vector(1, layers=[2]), "layer 2 is out of range, the model has 0 to 1"),
        (SteeringVector("m", A.directions, "resid_mid"), "where this engine does not steer"),
    ):
        with pytest.raises(ValueError, match=reason):
            add_vector(two, "b", vector)
    not_finite = SteeringVector("n", A.directions, metadata={"coefficient": float("nan")})
    with pytest.raises(ValueError, match="states a use that JSON cannot hold"):
        add_vector(two, "b", not_finite)
    for name in ("", "a/b", "a\n", "x" * 129):
        with pytest.raises(ValueError, match="the name"):
            add_vector(two, name, B)
    with pytest.raises(TypeError, match="expected a SteeringVector"):
        add_vector(two, "b", cast(Any, B[0]))
    with pytest.raises(TypeError, match=r"expected a vllm\.LLM"):
        vectors("engine")
    assert vectors(two) == before


def test_a_worker_that_fails_after_taking_the_vector_changes_nothing(
    two: Any, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = two.llm_engine.engine_core.engine_core
    stock, before = core.collective_rpc, vectors(two)

    def failing(*args: Any) -> Any:
        stock(*args)
        raise OSError("the second worker is gone")

    with monkeypatch.context() as patch:
        patch.setattr(core, "collective_rpc", failing)
        with pytest.raises(RuntimeError, match=r"OSError: the second worker is gone.*not changed"):
            add_vector(two, "a", B)
    assert vectors(two) == before
    assert answer(two, prompt(0), "a") == expected_tokens(small.model, prompt(0), A)
    add_vector(two, "a", C)  # takes the place of what the first worker holds for nobody
    assert answer(two, prompt(0), "a") == expected_tokens(small.model, prompt(0), C)


def test_engines_that_would_have_to_change_together_are_refused(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parallel = two.llm_engine.vllm_config.parallel_config
    for attribute, what in (
        ("data_parallel_size", "2 data parallel engines"),
        ("_api_process_count", "2 API server processes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(parallel, attribute, 2)
            with pytest.raises(ValueError, match=what):
                add_vector(two, "b", B)
