"""Which terms act on which token, and what tells blocks of cached tokens apart."""

from __future__ import annotations

import random

from served import make_store

from faststeer.vllm.terms import Term, parse_terms
from faststeer.vllm.timeline import NEVER, Timeline

STORE = make_store()
SCOPES = (
    "all",
    "prompt",
    "generated",
    "last",
    "from_last_prompt",
    "0:3",
    "2:",
    "-2:0",
    "-1:",
    "5:8",
    "first(3)",
)


def acts(positions: str, position: int, prompt: int) -> bool:
    """Return whether a scope holds a position, by what its name means."""
    named = {
        "all": True,
        "prompt": position < prompt,
        "generated": position >= prompt,
        "last": position == prompt - 1,
        "from_last_prompt": position >= prompt - 1,
        "first(3)": prompt <= position < prompt + 3,
    }
    if positions in named:
        return named[positions]
    start, _, stop = positions.partition(":")
    first = int(start) + (prompt if start.startswith("-") else 0)
    last = None if not stop else int(stop) + (prompt if start.startswith("-") else 0)
    return position >= first and (last is None or position < last)


def terms_of(*scopes: str) -> list[Term]:
    given = [
        {"vector": "one", "coefficient": n + 1, "positions": own} for n, own in enumerate(scopes)
    ]
    return parse_terms(given, STORE)


def test_every_scope_and_every_pair_acts_on_the_tokens_that_its_name_means() -> None:
    for prompt in (1, 2, 5, 9):
        for one in SCOPES:
            for other in SCOPES:
                terms = terms_of(one, other)
                timeline = Timeline.of(terms, prompt)
                assert timeline.starts[0] == 0
                for position in range(20):
                    ((first, last, active),) = timeline.between(position, position + 1)
                    assert (first, last) == (position, position + 1)
                    wanted = [acts(scope, position, prompt) for scope in (one, other)]
                    assert list(active) == [t for t, own in zip(terms, wanted, strict=True) if own]


def test_spans_are_cut_where_they_are_asked_for() -> None:
    timeline = Timeline.of(terms_of("2:5", "generated"), 8)
    assert [(a, b, len(own)) for a, b, own in timeline.between(0, 12)] == [
        (0, 2, 0),
        (2, 5, 1),
        (5, 8, 0),
        (8, 12, 1),
    ]
    assert [(a, b) for a, b, _ in timeline.between(3, 4)] == [(3, 4)]
    assert timeline.span_of(3) == (2, 5)
    assert timeline.span_of(8) == (8, NEVER)


def test_blocks_have_keys_exactly_where_a_token_of_theirs_is_steered() -> None:
    timeline = Timeline.of(terms_of("generated"), 10)
    assert timeline.block_key(0, 8) is None  # shared with unsteered requests
    assert timeline.block_key(8, 16) is not None
    assert timeline.block_key(8, 16) != timeline.block_key(16, 24)


def test_equal_keys_mean_equal_steering_of_every_token_of_the_block() -> None:
    """Over random requests: the key of a block is a function of what acts on its tokens."""
    chooser = random.Random(0)
    by_key: dict[str | None, list[object]] = {}
    for _ in range(400):
        prompt = chooser.randint(1, 12)
        terms = terms_of(*chooser.choices(SCOPES, k=chooser.randint(1, 2)))
        timeline = Timeline.of(terms, prompt)
        for start in (0, 4, 8):
            tokens = [timeline.between(n, n + 1)[0][2] for n in range(start, start + 4)]
            stripped = [[term.to_wire()[:-1] for term in own] for own in tokens]
            key = timeline.block_key(start, start + 4)
            assert by_key.setdefault(key, stripped) == stripped
            assert (key is None) == (not any(stripped))
    assert len(by_key) > 20


def test_keys_differ_by_content_coefficient_layer_mode_and_norm() -> None:
    given = [
        {"vector": "three"},
        {"vector": "one"},
        {"vector": "three", "coefficient": 2},
        {"vector": "three", "layers": [0, 1]},
        {"vector": "three", "mode": "project"},
        {"vector": "three", "keep_norm": True},
    ]
    keys = {Timeline.of(parse_terms([own], STORE), 4).block_key(0, 4) for own in given}
    assert len(keys) == len(given)
    # of two scopes that cover the block alike
    covering = [[{"vector": "one", "positions": scope}] for scope in ("all", "prompt", "0:4")]
    assert len({Timeline.of(parse_terms(own, STORE), 9).block_key(0, 4) for own in covering}) == 1
