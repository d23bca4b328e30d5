"""Two workers, each with half of every layer and the whole residual stream."""

from __future__ import annotations

import os

import pytest
from engines import Terms, ask, assert_differs, assert_equal, expected, tiny_engine, tokens_of
from served_tiny import MakeServed

SETTINGS: list[Terms | None] = [
    None,
    [{"vector": "one", "coefficient": 1.0}],
    [{"vector": "every", "coefficient": -0.5, "positions": "generated"}],
    [{"vector": "every", "mode": "clamp", "coefficient": 9.0}],
]


@pytest.mark.heavy
def test_two_workers_answer_as_one(serve_tiny: MakeServed, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two workers need two cores")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    tiny = serve_tiny("Qwen2")
    prompt = tokens_of(40)
    with tiny_engine(tiny.folder, tiny.vectors_folder, tensor_parallel_size=2) as llm:
        found = ask(llm, [prompt] * len(SETTINGS), SETTINGS)
    unsteered = expected(tiny.model, tiny.vectors, prompt, None)
    for own, terms in zip(found, SETTINGS, strict=True):
        wanted = expected(tiny.model, tiny.vectors, prompt, terms)
        if terms:
            assert_differs(wanted, unsteered)
        assert_equal(own, wanted)
