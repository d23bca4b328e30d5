"""A steered request gets what `faststeer.patch` gives in transformers: every mode and scope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import (
    Answer,
    Terms,
    ask,
    assert_differs,
    assert_equal,
    directions,
    engine,
    expected,
    runner,
    save_all,
)
from vllm import LLM

from faststeer.models.loading import Loaded, demo_folder

HIDDEN = 576
VECTORS = {
    "one": directions("one", [11], HIDDEN, 20.0, seed=1),
    "three": directions("three", [5, 11, 20], HIDDEN, 20.0, seed=2),
    "all": directions("all", range(30), HIDDEN, 4.0, seed=3),
    "mid": directions("mid", [7, 8], HIDDEN, 20.0, "resid_mid", seed=4),
    "first": directions("first", [0], HIDDEN, 2.0, "resid_pre", seed=5),
    "last": directions("last", [29], HIDDEN, 60.0, seed=6),
}


def one(coefficient: float = 4.0, **more: Any) -> dict[str, Any]:
    return {"vector": "one", "coefficient": coefficient, **more}


CASES: dict[str, Terms] = {
    "addition": [one(2.0)],
    "negative": [{"vector": "three", "coefficient": -1.5}],
    "every layer": [{"vector": "all", "coefficient": 1.0}],
    "last layer": [{"vector": "last", "coefficient": 1.0}],
    "two at a layer": [one(1.0), {"vector": "three", "coefficient": 1.0}],
    "layer factors": [{"vector": "three", "coefficient": 2.0, "layers": {5: 0.5, 20: -2.0}}],
    "layer names as JSON has them": [{"vector": "three", "coefficient": 2.0, "layers": {"5": 1}}],
    "projection": [{"vector": "three", "mode": "project", "coefficient": 1.0}],
    "clamp": [{"vector": "three", "mode": "clamp", "coefficient": 60.0}],
    "clamp beside addition": [
        one(2.0),
        {"vector": "three", "mode": "clamp", "coefficient": 40.0, "layers": [11]},
    ],
    "ceiling": [{"vector": "three", "ceiling": -40.0}],
    "floor and ceiling beside addition": [
        one(2.0),
        {"vector": "three", "floor": 30.0, "ceiling": 50.0, "layers": [11], "positions": "prompt"},
    ],
    "kept norm": [one(4.0, keep_norm=True)],
    "resid_mid": [{"vector": "mid", "coefficient": 2.0}],
    "resid_pre": [{"vector": "first", "coefficient": 1.0}],
    "prompt": [one(positions="prompt")],
    "generated": [one(positions="generated")],
    "last token of the prompt": [one(positions="last")],
    "from the last token of the prompt": [one(positions="from_last_prompt")],
    "range": [one(positions="1:3")],
    "range from the end": [one(positions="-3:0")],
    "two scopes": [
        one(positions="prompt"),
        {"vector": "three", "coefficient": -2.0, "positions": "generated"},
    ],
}
PROMPTS = ("The history of the sea is", "Once upon a time there was a")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all(VECTORS, tmp_path_factory.mktemp("vectors"))


@pytest.fixture(
    scope="module",
    params=[True, pytest.param(False, marks=pytest.mark.heavy)],
    ids=["eager", "compiled"],
)
def llm(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    with engine(demo_folder(), folder, enforce_eager=request.param) as started:
        yield started


@pytest.fixture(scope="module")
def prompts(demo: Loaded) -> list[list[int]]:
    return [demo.tokenizer(text)["input_ids"] for text in PROMPTS]


@pytest.fixture(scope="module")
def unsteered(demo: Loaded, prompts: list[list[int]]) -> list[Answer]:
    return [expected(demo.model, VECTORS, prompt, None) for prompt in prompts]


@pytest.fixture(scope="module")
def answers(llm: LLM, prompts: list[list[int]]) -> dict[str, list[Answer]]:
    """Return the answers to all cases, which are one batch: 40 requests, hardly two alike."""
    asked = [(prompt, terms) for terms in [None, *CASES.values()] for prompt in prompts]
    found = ask(llm, *zip(*asked, strict=True))
    pairs = [found[at : at + len(prompts)] for at in range(0, len(found), len(prompts))]
    return dict(zip(["unsteered", *CASES], pairs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_answer_equals_that_of_patch(
    case: str,
    answers: dict[str, list[Answer]],
    demo: Loaded,
    prompts: list[list[int]],
    unsteered: list[Answer],
) -> None:
    for at, prompt in enumerate(prompts):
        wanted = expected(demo.model, VECTORS, prompt, CASES[case])
        assert_differs(wanted, unsteered[at])
        assert_equal(answers[case][at], wanted)


def test_unsteered_request_among_steered_ones_equals_the_stock_model(
    answers: dict[str, list[Answer]], unsteered: list[Answer]
) -> None:
    for found, wanted in zip(answers["unsteered"], unsteered, strict=True):
        assert_equal(found, wanted)


def test_comparison_fails_where_the_tables_are_not_written(
    llm: LLM,
    prompts: list[list[int]],
    unsteered: list[Answer],
    answers: dict[str, list[Answer]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that no case above passes by what transformers and vLLM have in common."""
    steering = runner(llm).faststeer
    steering.batch.clear()
    monkeypatch.setattr(steering, "write", lambda step: None)
    llm.reset_prefix_cache()
    [found] = ask(llm, prompts[:1], [CASES["addition"]])
    llm.reset_prefix_cache()  # its blocks are those of a steered request, and hold unsteered ones
    assert_equal(found, unsteered[0])
    assert_differs(found, answers["addition"][0])
