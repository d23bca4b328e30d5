"""Places for vectors: full while requests use them, free afterwards, and never taken too early."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_engine
from small_engine import A, B, C, Requests, Small, answer, expected_tokens, make_vector, prompt

from faststeer import SteeringVector
from faststeer.vllm import NoPlaceError, add_vector, remove_vector, vectors
from faststeer.vllm.leases import Leases
from faststeer.vllm.serving import store_of

if importlib.util.find_spec("vllm.v1") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)


def slots_of(llm: Any) -> Any:
    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    return runner.faststeer.slots


@pytest.fixture
def one(small: Small) -> Iterator[Any]:
    """An engine with one place. It stands before the tests that share another."""
    with small.engine(1) as llm:
        yield llm


def test_one_place_is_full_until_the_removed_vector_has_no_requests(one: Any, small: Small) -> None:
    llm = one
    requests = Requests(llm)
    running = requests.add(prompt(0), "a")
    requests.step(2)
    before = vectors(llm)
    for name in ("a", "b"):
        with pytest.raises(NoPlaceError, match="all 1 vectors that this engine can hold"):
            add_vector(llm, name, B)
    assert vectors(llm) == before
    remove_vector(llm, "a")
    with pytest.raises(NoPlaceError, match="wait for the requests"):
        add_vector(llm, "b", B)
    requests.finish()
    assert requests.tokens(running) == expected_tokens(small.model, prompt(0), A)
    add_vector(llm, "b", B)
    assert answer(llm, prompt(0), "b") == expected_tokens(small.model, prompt(0), B)


def test_two_places_are_full_until_the_replaced_vector_has_no_requests(
    two: Any, small: Small
) -> None:
    requests = Requests(two)
    running = requests.add(prompt(0), "a")
    requests.step(2)
    add_vector(two, "a", B)
    assert running not in requests.finished
    with pytest.raises(NoPlaceError, match="all 2 vectors"):
        add_vector(two, "a", C)
    assert answer(two, prompt(1), "a") == expected_tokens(small.model, prompt(1), B)
    requests.finish()
    add_vector(two, "a", C)
    assert answer(two, prompt(1), "a") == expected_tokens(small.model, prompt(1), C)


@pytest.mark.parametrize("leased", [True, False])
def test_a_request_that_is_checked_and_not_sent_yet_keeps_its_content(
    two: Any, small: Small, leased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=8, extra_args={"faststeer": [{"vector": "a"}]}
    )
    engine = two.llm_engine
    tokens = {"prompt_token_ids": prompt(0)}
    unsent = engine.input_processor.process_inputs("early", tokens, params, ("generate",))
    digest = vectors(two)["a"]["digest"]
    if not leased:  # then its content would be dropped: what the leases are for
        monkeypatch.setattr(Leases, "digests", lambda self: set())
    add_vector(two, "a", B)
    if not leased:
        add_vector(two, "a", C)
        assert digest not in slots_of(two)
        return
    with pytest.raises(NoPlaceError):
        add_vector(two, "a", C)
    assert digest in slots_of(two)
    engine.input_processor.assign_request_id(unsent)
    engine.output_processor.add_request(unsent, None, None, 0)
    engine.engine_core.add_request(unsent)
    del unsent
    requests = Requests(two)
    requests.finish()
    assert requests.tokens("early") == expected_tokens(small.model, prompt(0), A)
    add_vector(two, "a", C)
    assert digest not in slots_of(two)


@pytest.mark.heavy
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_workers_change_together(small: Small) -> None:
    program = Path(small_engine.__file__).with_name("two_workers.py")
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    environment["PYTHONPATH"] = os.pathsep.join(own for own in sys.path if own)
    done = subprocess.run(
        [sys.executable, str(program), str(small.folder), str(small.vectors)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(own for own in done.stdout.splitlines() if own.startswith("{")))
    expected = [expected_tokens(small.model, prompt(0), own, 200) for own in (A, B, C)]
    assert [found["answers"][name] for name in ("old", "new", "later")] == expected
    assert "all 2 vectors that this engine can hold are in use" in found["refused"]
    assert found["names"] == ["b"]


def test_200_random_changes_among_running_requests(two: Any, small: Small) -> None:
    chance = random.Random(0)
    contents = [make_vector(seed) for seed in range(10, 15)]
    expected: dict[tuple[int, int | None], list[int]] = {}
    requests, running = Requests(two), {}
    names: dict[str, int | None] = {"a": None}  # of which content; None is A
    counts = {"added": 0, "replaced": 0, "removed": 0, "full": 0, "steered": 0}

    def vector_of(content: int | None) -> SteeringVector:
        return A if content is None else contents[content]

    for _ in range(200):
        action = chance.choice(["put", "put", "remove", "request", "request", "step"])
        if action == "put":
            name, content = chance.choice("abc"), chance.randrange(5)
            live = {
                own for request, (_, own) in running.items() if request not in requests.finished
            }
            needed = {*live, *names.values(), content}
            if len(needed) <= 2:
                add_vector(two, name, contents[content])
                counts["replaced" if name in names else "added"] += 1
                names[name] = content
            else:
                with pytest.raises(NoPlaceError):
                    add_vector(two, name, contents[content])
                counts["full"] += 1
        elif action == "remove" and names:
            name = chance.choice(sorted(names))
            remove_vector(two, name)
            del names[name]
            counts["removed"] += 1
        elif action == "request" and names:
            name, seed = chance.choice(sorted(names)), chance.randrange(4)
            running[requests.add(prompt(seed), name, most=5)] = seed, names[name]
            counts["steered"] += 1
        elif action == "step":
            requests.step(chance.randrange(1, 8))
        assert {name: own["digest"] for name, own in vectors(two).items()} == store_of(two).digests
        assert set(vectors(two)) == set(names)
    requests.finish()
    for request, (seed, content) in running.items():
        key = seed, content
        if key not in expected:
            expected[key] = expected_tokens(small.model, prompt(seed), vector_of(content), 5)
        assert requests.tokens(request) == expected[key]
    assert len({tuple(own) for own in expected.values()}) > len(expected) // 2
    assert min(counts.values()) >= 5, counts
