"""Many settings in turn, cancelled at random: rows of the tables are neither mixed up nor lost."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from engines import (
    Answer,
    Terms,
    answer_of,
    ask,
    assert_differs,
    assert_equal,
    core,
    runner,
    sampling,
    tiny_engine,
    tokens_of,
)
from served_tiny import MakeServed
from vllm import LLM

SEATS = 32
SCOPES = ("all", "prompt", "generated", "last", "3:9")


@pytest.fixture(scope="module")
def llm(serve_tiny: MakeServed) -> Iterator[LLM]:
    tiny = serve_tiny(layers=2)
    options = {"max_num_seqs": SEATS, "max_num_batched_tokens": 128, "num_gpu_blocks_override": 40}
    with tiny_engine(tiny.folder, tiny.vectors_folder, **options) as started:
        yield started


def setting(number: int) -> Terms | None:
    """Return the terms of a request: every fourth has none, and all others are different."""
    if number % 4 == 0:
        return None
    coefficient = (-1) ** number * (0.5 + number / 10_000)
    terms = [{"vector": "one", "coefficient": coefficient, "positions": SCOPES[number % 5]}]
    if number % 3 == 0:
        terms.append({"vector": "other", "mode": "clamp", "coefficient": number / 1_000})
    return terms


def prompt(number: int) -> list[int]:
    return tokens_of(4 + number % 9, number)


def length(number: int) -> int:
    return 2 + number % 5


def serve_all(llm: LLM, count: int, chance: random.Random) -> tuple[dict[int, Answer], int, int]:
    """Return the answers that were completed, the most lines held, and how many were aborted."""
    engine = llm.llm_engine
    answers: dict[int, Answer] = {}
    running: list[str] = []
    sent = most = aborted = 0
    while sent < count or engine.has_unfinished_requests():
        while sent < count and len(running) < 2 * SEATS:
            params = sampling(setting(sent), length(sent))
            given = {"prompt_token_ids": prompt(sent)}
            running.append(engine.add_request(str(sent), given, params))
            sent += 1
        for output in engine.step():
            if output.finished:
                running = [own for own in running if own.partition("-")[0] != output.request_id]
                answers[int(output.request_id)] = answer_of(output.outputs[0])
        for _ in range(min(len(running), chance.randrange(4))):
            given_up = running.pop(chance.randrange(len(running)))
            engine.abort_request([given_up], internal=True)
            aborted += 1
        most = max(most, runner(llm).faststeer.lines.room)
    return answers, most, aborted


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.heavy)])
def test_every_request_keeps_its_own_setting(llm: LLM, count: int) -> None:
    steering = runner(llm).faststeer
    answers, most, aborted = serve_all(llm, count, random.Random(count))
    assert aborted > count / 20
    assert len(answers) + aborted >= count * 0.99
    assert most <= 4 * SEATS  # however many settings there were
    assert len(steering.lines) < most
    assert len(steering._timelines) <= SEATS
    assert not core(llm).scheduler.requests

    sample = random.Random(0).sample(sorted(answers), 60)
    pairs = [(prompt(own), setting(own), length(own)) for own in sample]
    for number, (tokens, terms, steps) in zip(sample, pairs, strict=True):
        llm.reset_prefix_cache()
        [alone] = ask(llm, [tokens], [terms], steps)
        assert_equal(answers[number], alone)
        if terms and terms[0]["positions"] == "all":
            [unsteered] = ask(llm, [tokens], [None], steps)
            assert_differs(alone, unsteered, 0.001)

    ask(llm, [prompt(4)], [None], 4)
    assert not steering._timelines
