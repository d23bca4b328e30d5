"""The comparison with other libraries, as far as it runs without them."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from places import BENCHMARKS
from result_tables import parity_table
from torch import nn

from faststeer import SteeringVector
from faststeer.diagnostics.bench.hook_baselines import steer_with_hooks, twin
from faststeer.models.calls import DecoderSignature
from faststeer.models.inference import logits
from faststeer.models.loading import load
from faststeer.vectors.random import random_vector

FOLDER = BENCHMARKS / "parity"


@pytest.fixture(scope="module")
def program() -> Iterator[dict[str, Any]]:
    """Import the program's modules by name, with the import path that they have when it runs."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: __import__(name) for name in ("cost", "equality", "steerers")}
    finally:
        sys.path.remove(str(FOLDER))


def scaled(factor: float) -> Callable[..., nn.Module]:
    """Return a stand-in library that steers by plain hooks, with a scaled coefficient."""

    def steer(model: nn.Module, vector: SteeringVector, coefficient: float) -> nn.Module:
        other = twin(model)
        hooks = steer_with_hooks(other, [(vector, factor * coefficient)])
        hooks.__enter__()
        other.__dict__["hooks"] = hooks  # an unreferenced context manager would exit
        return other

    return steer


def test_a_library_that_adds_the_same_is_equal_and_one_that_adds_more_is_not(program) -> None:
    libraries = {
        "right": scaled(1.0),
        "wrong": scaled(1.01),
        "faststeer": program["steerers"].LIBRARIES["faststeer"],
    }
    records = program["equality"].compare("tiny", load("random:tiny").model, libraries)
    cases = {(each["steered"], each["coefficient"]) for each in records}
    assert len(cases) == 4
    assert len(records) == 2 * len(cases)
    for each in records:
        assert each["effect"] > 0.1
        assert each["equal"] == (each["library"] == "right"), each
        if each["library"] == "wrong":
            assert each["difference"] > 0.003


def test_costs_are_those_of_every_library_and_of_stock_and_hooks(program) -> None:
    model = load("random:tiny").model
    libraries = {"other": scaled(1.0), "faststeer": program["steerers"].LIBRARIES["faststeer"]}
    records = program["cost"].measure(model, libraries, (1, 2), 4, 2)
    assert [(each["phase"], each["batch_size"], each["library"]) for each in records] == [
        (phase, size, name)
        for phase in ("prefill", "decode")
        for size in (1, 2)
        for name in ("stock", "plain hooks", "other", "faststeer")
    ]
    for each in records:
        assert each["milliseconds"] > 0
        assert each["against_stock"] == 1 or each["library"] != "stock"
        assert each["against_faststeer"] == 1 or each["library"] != "faststeer"


def test_every_decode_step_that_is_timed_follows_the_prompt(program) -> None:
    model = load("random:tiny").model
    lengths = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(
            DecoderSignature.of(module).bind(args, kwargs).past_length()
        ),
        with_kwargs=True,
    )
    program["cost"].decode({"stock": model}, torch.ones(2, 5, dtype=torch.long), 3)
    warm_up_and_rounds = 4
    assert lengths == [0] + [5] * warm_up_and_rounds


def test_faststeer_steers_a_twin_and_leaves_the_model_stock(program) -> None:
    model = load("random:tiny").model
    batch = program["equality"].prompts(512)
    before = logits(model, batch)
    vector = random_vector("v", {1: 5.0}, 64, seed=0)
    steered = program["steerers"].with_faststeer(model, vector, 1.0)
    assert not torch.allclose(logits(steered, batch), before)
    assert torch.equal(logits(model, batch), before)


def results(cores_elsewhere: float) -> dict[str, Any]:
    rows = [
        {"phase": phase, "batch_size": 1, "library": library, "against_stock": ratio}
        for phase in ("prefill", "decode")
        for library, ratio in (("stock", 1.0), ("repeng", 1.125), ("faststeer", 0.99))
    ]
    machine = {"cpu": "C", "threads": 2, "torch": "2", "transformers": "4.57.6", "repeng": "0.4.0"}
    return {
        "machine": machine | {"cores_elsewhere": cores_elsewhere},
        "settings": {"model": "M", "prompt_tokens": 16, "rounds": 3},
        "equality": [{"equal": True, "difference": 1e-7}, {"equal": False, "difference": 0.1}],
        "cost": rows,
    }


def test_a_table_shows_versions_agreement_and_ratios() -> None:
    table = parity_table(results(0.01))
    assert "repeng 0.4.0, transformers 4.57.6" in table
    assert "of 2 comparisons" in table
    assert "1 agree" in table
    assert "1e-01 of the change that steering makes" in table
    assert "| repeng | 1.125× | 1.125× |" in table


def test_times_of_a_busy_machine_are_not_shown() -> None:
    table = parity_table(results(1.7))
    assert "1 agree" in table
    assert "timed with 1.7 cores busy elsewhere: not shown" in table
    assert "1.125" not in table
