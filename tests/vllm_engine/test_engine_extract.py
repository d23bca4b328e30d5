"""Vectors of an engine against `faststeer.extract`, on a model that has attention sinks."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from places import BEHAVIOURS
from transformers import AutoModelForCausalLM, AutoTokenizer

import faststeer
import faststeer.vllm
from faststeer import SteeringVector
from faststeer.models.loading import demo_folder

pytest.importorskip("vllm")

from engine_captures import assert_equal, distance, engine, expected
from vllm import LLM

SMOL_LAYERS = [3, 11, 20, 29]


@pytest.fixture(scope="module")
def smol() -> tuple[Any, Any, Path]:
    folder = demo_folder()
    if folder is None or not Path(folder).is_dir():
        pytest.skip("SmolLM2 is not there")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder), Path(folder)


@pytest.fixture(scope="module")
def smol_llm(smol: tuple[Any, Any, Path]) -> Iterator[LLM]:
    with engine(smol[2], {"capture": SMOL_LAYERS, "capture_groups": 6}) as llm:
        yield llm


PROSE = ["The history of the sea is long.", "def f(x):", "Once upon a time " * 30]


def test_moments_of_texts_are_those_of_transformers(
    smol: tuple[Any, Any, Path], smol_llm: LLM
) -> None:
    ids = [smol[1](text)["input_ids"] for text in PROSE]
    found = faststeer.vllm.capture(smol_llm, PROSE)
    assert_equal(found, expected(smol[0], ids, SMOL_LAYERS))


def shared_pairs() -> list[tuple[str, str]]:
    file = BEHAVIOURS / "myopic.json"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    rows = [row for row in json.loads(file.read_text()) if len(row["question"]) < 400][:12]
    return [
        (
            row["question"] + row["answer_matching_behavior"] + ")",
            row["question"] + row["answer_not_matching_behavior"] + ")",
        )
        for row in rows
    ]


def both(
    smol: tuple[Any, Any, Path], llm: LLM, *texts: Any, **options: Any
) -> tuple[SteeringVector, SteeringVector, list[str], list[str]]:
    """Return the vectors of the engine and of transformers, and what they warned of."""
    vectors, messages = [], []
    for extract, given in (
        (faststeer.vllm.extract, (llm,)),
        (faststeer.extract, (smol[0], smol[1])),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            vectors.append(extract(*given, *texts, layers=SMOL_LAYERS, progress=False, **options))
        own = [one for one in caught if one.category is faststeer.FaststeerWarning]
        assert all(one.filename == __file__ for one in own)
        # That a BOS is missing is said once per model in a process.
        messages.append(
            sorted(str(one.message) for one in own if "begin with" not in str(one.message))
        )
    return vectors[0], vectors[1], *messages


def assert_same_vector(found: SteeringVector, wanted: SteeringVector) -> None:
    for layer, direction in wanted.directions.items():
        own, other = found.directions[layer].double(), direction.double()
        assert 1 - float(torch.cosine_similarity(own, other, dim=0)) < 1e-5
        assert abs(float(own.norm() / other.norm()) - 1) < 1e-5
    facts = {key: own for key, own in wanted.metadata.items() if key != "fingerprint"}
    assert found.metadata == facts


@pytest.mark.parametrize(
    ("read_token", "method"),
    [
        (-1, "mean_difference"),
        pytest.param(-2, "mean_difference", marks=pytest.mark.heavy),
        pytest.param("answer", "mean_difference", marks=pytest.mark.heavy),
        pytest.param(-1, "pca_diff", marks=pytest.mark.heavy),
    ],
)
def test_a_vector_from_pairs_is_that_of_transformers(
    smol: tuple[Any, Any, Path], smol_llm: LLM, read_token: Any, method: str
) -> None:
    pairs = shared_pairs()
    found, wanted, warned, expected_warnings = both(
        smol, smol_llm, pairs, read_token=read_token, method=method
    )
    assert_same_vector(found, wanted)
    assert warned == expected_warnings


@pytest.mark.heavy
def test_attention_sinks_are_left_out_of_means_as_on_transformers(
    smol: tuple[Any, Any, Path], smol_llm: LLM
) -> None:
    pairs = shared_pairs()
    sides = {
        "positive": [first for first, _ in pairs],
        "negative": ["The sea is wide and old, and nobody owns it.", *PROSE],
    }
    found, wanted, warned, expected_warnings = both(smol, smol_llm, read_token="all", **sides)
    assert_same_vector(found, wanted)
    assert warned == expected_warnings
    assert any(message.startswith("attention sinks") for message in warned)
    assert any(message.startswith("confound") for message in warned)
    assert found.metadata["sinks_left_out"]["layers"].keys() >= {"11", "20"}
    kept, wanted_kept, *_ = both(smol, smol_llm, read_token="all", keep_sinks=True, **sides)
    assert_same_vector(kept, wanted_kept)
    assert distance(kept.directions[11], found.directions[11]) > 0.5  # what sinks would have done
