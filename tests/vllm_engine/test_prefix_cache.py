"""Blocks of the prefix cache are shared by exactly the requests whose contents are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engines import (
    BLOCK,
    Answer,
    Terms,
    ask,
    assert_differs,
    assert_equal,
    expected,
    tiny_engine,
    tokens_of,
)
from served_tiny import Tiny
from vllm import LLM

from faststeer.vllm.v032 import blocks

PROMPT = tokens_of(5 * BLOCK + 7)
SHARED = 5 * BLOCK  # its whole blocks
A: Terms = [{"vector": "one", "coefficient": 1.0}]
B: Terms = [{"vector": "one", "coefficient": -1.0}]
PROMPT_ONLY: Terms = [{"vector": "one", "coefficient": 1.0, "positions": "prompt"}]
GENERATED: Terms = [{"vector": "one", "coefficient": 1.0, "positions": "generated"}]
LATE: Terms = [{"vector": "one", "coefficient": 1.0, "positions": "70:80"}]

# In this order, and how many tokens of the prompt are then cached.
SEQUENCE: list[tuple[Terms | None, int]] = [
    (None, 0),
    (A, 0),
    (None, SHARED),
    (A, SHARED),
    (B, 0),
    (PROMPT_ONLY, SHARED),  # every block of the prompt is as A made it
    (GENERATED, SHARED),  # as unsteered requests made it
    (LATE, 2 * BLOCK),  # up to the block with the first steered token
    (LATE, SHARED),
    (None, SHARED),
]


@pytest.fixture(scope="module")
def llm(tiny_llama: Tiny) -> Iterator[LLM]:
    with tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder) as started:
        yield started


@pytest.fixture(autouse=True)
def empty_cache(llm: LLM) -> None:
    assert llm.reset_prefix_cache()


def in_turn(llm: LLM) -> list[Answer]:
    """Return the answers to the sequence, each asked when the one before it is complete."""
    return [ask(llm, [PROMPT], [terms])[0] for terms, _ in SEQUENCE]


@pytest.fixture(scope="module")
def wanted(tiny_llama: Tiny) -> list[Answer]:
    tiny = tiny_llama
    return [expected(tiny.model, tiny.vectors, PROMPT, terms) for terms, _ in SEQUENCE]


def test_requests_share_blocks_only_where_their_contents_are_equal(
    llm: LLM, wanted: list[Answer]
) -> None:
    found = in_turn(llm)
    assert [own.cached for own in found] == [cached for _, cached in SEQUENCE]
    for own, right in zip(found, wanted, strict=True):
        assert_equal(own, right)


def test_without_their_keys_steered_requests_would_take_unsteered_blocks(
    llm: LLM, wanted: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_block_key", lambda request, start, stop: None)
    found = in_turn(llm)
    assert all(own.cached == SHARED for own in found[1:])
    for at in (1, 3, 4, 5, 7):
        assert_differs(found[at], wanted[at])


def test_answers_are_cached_by_what_steered_them(llm: LLM, tiny_llama: Tiny) -> None:
    """A second turn, whose prompt holds the first answer: there it was generated, here prompt."""
    tiny = tiny_llama
    [first] = ask(llm, [PROMPT], [GENERATED], tokens=2 * BLOCK)
    assert_equal(first, expected(tiny.model, tiny.vectors, PROMPT, GENERATED, 2 * BLOCK))
    second_prompt = PROMPT + first.tokens
    for terms, cached in ((None, SHARED), (PROMPT_ONLY, 0), (A, SHARED + 2 * BLOCK)):
        [found] = ask(llm, [second_prompt], [terms])
        assert found.cached == cached
        assert_equal(found, expected(tiny.model, tiny.vectors, second_prompt, terms))


def test_vectors_of_one_name_and_other_content_have_other_blocks(
    llm: LLM, tiny_llama: Tiny
) -> None:
    tiny = tiny_llama
    ask(llm, [PROMPT], [A])
    other: Terms = [{"vector": "other", "coefficient": 1.0}]
    [found] = ask(llm, [PROMPT], [other])
    assert found.cached == 0
    assert_equal(found, expected(tiny.model, tiny.vectors, PROMPT, other))
