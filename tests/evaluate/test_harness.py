"""EleutherAI's harness on a patched model agrees with `faststeer.evaluate`."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT

import faststeer
from faststeer.evaluate import Choice, continuation_logprobs, matching_scores
from faststeer.models.loading import Loaded, load

EXAMPLE = ROOT / "examples" / "harness.py"
LETTERS = [Choice(f"Is {n} more than {n % 5}? Answer: (", *"AB"[:: (-1) ** n]) for n in range(12)]
WORDS = [Choice(f"The {place} was", " fine", " not so good") for place in ("inn", "sea", "walk")]


@pytest.fixture(scope="module")
def harness() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Loaded:
    loaded = load(str(tiny_folder))
    loaded.tokenizer.pad_token = loaded.tokenizer.eos_token = "!"
    return loaded


@pytest.fixture
def vector(seeded: None) -> faststeer.SteeringVector:
    return faststeer.SteeringVector("any", {1: torch.randn(64)})


def test_the_harness_and_the_matching_score_agree_unsteered_and_steered(
    harness: dict[str, Any], tiny: Loaded, vector: faststeer.SteeringVector
) -> None:
    shares = []
    with faststeer.patch(tiny.model) as patched:
        handle = patched.steer(vector)
        for coefficient in (0.0, 3.0):
            handle.coefficient = coefficient
            found = harness["harness_results"](tiny.model, tiny.tokenizer, LETTERS)
            own = matching_scores(tiny.model, tiny.tokenizer, LETTERS)
            assert found["results"]["choices"]["acc,none"] == own.preferred
            assert log_probabilities(found) == [
                pytest.approx(both, rel=1e-5)
                for both in zip(own.log_matching.tolist(), own.log_other.tolist(), strict=True)
            ]
            shares.append(own.preferred)
    assert shares[0] != shares[1]


def test_the_harness_and_continuation_logprobs_agree_on_options_of_several_tokens(
    harness: dict[str, Any], tiny: Loaded, vector: faststeer.SteeringVector
) -> None:
    with faststeer.patch(tiny.model) as patched:
        patched.steer(vector, 3.0)
        found = harness["harness_results"](tiny.model, tiny.tokenizer, WORDS)
        items = [(choice.question, option) for choice in WORDS for option in choice[1:]]
        own = continuation_logprobs(tiny.model, tiny.tokenizer, items)
    assert log_probabilities(found) == [
        pytest.approx(both, rel=1e-5) for both in own.view(-1, 2).tolist()
    ]


def test_a_file_of_choices_is_scored_without_its_vector_s_training_questions(
    harness: dict[str, Any], tmp_path: Path
) -> None:
    keys = "question", "answer_matching_behavior", "answer_not_matching_behavior"
    rows = [dict(zip(keys, (f"{n} (", "A", "B"), strict=True)) for n in range(250)]
    file = tmp_path / "choices.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    pairs, choices = harness["pairs_and_choices"](str(file))
    assert len(pairs) == len(choices) == 100
    assert not {positive for positive, _ in pairs} & {c.question + c.matching for c in choices}


def log_probabilities(found: dict[str, Any]) -> list[tuple[float, float]]:
    """Return those of both options of every choice, in their order."""
    samples = sorted(found["samples"]["choices"], key=lambda sample: sample["doc_id"])
    return [tuple(value for value, _ in sample["filtered_resps"]) for sample in samples]
