"""Requests that share steps: batchmates, chunks, preemption, several samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engines import (
    Answer,
    Terms,
    answer_of,
    ask,
    assert_differs,
    assert_equal,
    core,
    expected,
    runner,
    sampling,
    tiny_engine,
    tokens_of,
)
from served_tiny import Tiny
from vllm import LLM

import faststeer

SETTINGS: list[Terms | None] = [
    None,
    [{"vector": "one", "coefficient": 1.0}],
    [{"vector": "every", "coefficient": -0.5}],
    [{"vector": "one", "coefficient": 1.5, "positions": "generated"}],
    [{"vector": "every", "coefficient": 0.5, "positions": "prompt"}],
    [{"vector": "one", "coefficient": 1.5, "positions": "60:120"}],
    [
        {"vector": "other", "coefficient": 1.0, "positions": "last"},
        {"vector": "one", "mode": "clamp", "coefficient": 9.0},
    ],
    None,
]
LONG = 90  # tokens of an answer
PROMPTS = [tokens_of(40 + 9 * at, at) for at in range(len(SETTINGS))]


@pytest.fixture(scope="module")
def roomy(tiny_llama: Tiny) -> Iterator[LLM]:
    options = {"enable_prefix_caching": False}
    with tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder, **options) as started:
        yield started


@pytest.fixture(scope="module")
def crowded(tiny_llama: Tiny) -> Iterator[LLM]:
    """Return an engine whose prompts come in chunks, and that has blocks for half of them."""
    options = {"max_num_batched_tokens": 48, "max_num_seqs": 8, "num_gpu_blocks_override": 20}
    with tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder, **options) as started:
        yield started


@pytest.fixture(scope="module")
def wanted(tiny_llama: Tiny) -> list[Answer]:
    tiny = tiny_llama
    pairs = zip(PROMPTS, SETTINGS, strict=True)
    found = [expected(tiny.model, tiny.vectors, *pair, tokens=LONG) for pair in pairs]
    for prompt, terms, own in zip(PROMPTS, SETTINGS, found, strict=True):
        if terms is not None:
            assert_differs(own, expected(tiny.model, tiny.vectors, prompt, None, tokens=LONG))
    return found


def test_batchmates_of_steered_requests_are_bit_identical(roomy: LLM) -> None:
    steered = [2, 5]
    terms = [SETTINGS[1] if at in steered else None for at in range(len(PROMPTS))]
    found = ask(roomy, PROMPTS, terms, 16)
    alone = ask(roomy, PROMPTS, [None] * len(PROMPTS), 16)
    for at, (own, other) in enumerate(zip(found, alone, strict=True)):
        if at in steered:
            assert_differs(own, other)
        else:
            assert own == other


def test_all_settings_in_one_batch_equal_patch(roomy: LLM, wanted: list[Answer]) -> None:
    for own, right in zip(ask(roomy, PROMPTS, SETTINGS, LONG), wanted, strict=True):
        assert_equal(own, right)


def test_chunks_and_preemption_change_no_answer(
    crowded: LLM, wanted: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = core(crowded).scheduler
    preempted: list[str] = []
    stock = scheduler._preempt_request

    def counted(request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        stock(request, *args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", counted)
    found = ask(crowded, PROMPTS, SETTINGS, LONG)
    assert len(preempted) >= 3
    for own, right in zip(found, wanted, strict=True):
        assert_equal(own, right)


def test_tables_are_written_only_when_the_batch_changes(roomy: LLM) -> None:
    batch = runner(roomy).faststeer.batch
    before = batch.writes
    ask(roomy, PROMPTS[1:3], SETTINGS[1:3], 40)
    assert batch.writes - before == 2  # for the prompts, and for the answers


def test_every_sample_of_a_request_is_steered(roomy: LLM, tiny_llama: Tiny) -> None:
    prompt, terms = PROMPTS[1], SETTINGS[1]
    assert terms is not None
    params = sampling(terms, 8, n=3, temperature=1.0, seed=5)
    [output] = roomy.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    answers = [answer_of(own) for own in output.outputs]
    assert len({tuple(own.tokens) for own in answers}) == 3
    with faststeer.patch(tiny_llama.model) as patched, torch.no_grad():
        for coefficient, same in ((1.0, True), (0.0, False)):
            patched.steer(tiny_llama.vectors["one"], coefficient, name="one")
            for own in answers:
                ids = torch.tensor([prompt + own.tokens])
                logprobs = tiny_llama.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                right = [float(row[t]) for row, t in zip(logprobs, own.tokens, strict=True)]
                if same:
                    assert_equal(own, Answer(own.tokens, right))
                else:
                    assert_differs(own, Answer(own.tokens, right))
