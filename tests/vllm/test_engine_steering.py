"""The requests of a worker come, go and take each other's ids."""

from __future__ import annotations

import numpy as np
import torch
from served import make_store
from toy_engine_model import HIDDEN, Layer, Model, Norm

from faststeer.vllm.batch import Step
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.find_sites import find_sites, watched
from faststeer.vllm.request_checks import RequestChecks

STORE = make_store()


def make_steering() -> EngineSteering:
    model = Model([Layer() for _ in range(4)])
    found = find_sites(
        list(model.layers),
        lambda own: type(own) is Norm,
        watched(model),
        model.embed_tokens,
        HIDDEN,
        lambda: model.run(3),
    )
    return EngineSteering(Configuration(None), STORE, found, 32, torch.device("cpu"))


def arguments(coefficient: float, positions: str = "all") -> dict[str, object] | None:
    given = [{"vector": "one", "coefficient": coefficient, "positions": positions}]
    return RequestChecks(None, STORE).checked({"faststeer": given}, resumable=False)


def step(*requests: str, at: int = 4) -> Step:
    one = np.ones(len(requests), dtype=np.int32)
    return Step(requests, one, at * one)


def coefficients(steering: EngineSteering, tokens: int) -> list[float]:
    """Return the sum of each token's coefficients over all sites, of those that have entries."""
    batch = steering.batch
    acting = torch.where(batch.index >= 0, batch.coefficient, 0.0)
    return acting[:, :tokens].sum((0, 2)).tolist()


def test_a_request_of_the_same_id_is_another_one() -> None:
    steering = make_steering()
    steering.add_request("a", arguments(2.0), 3)
    steering.write(step("a"))
    assert coefficients(steering, 1) == [2.0]
    steering.write(step("a"))  # a step like the last one
    assert steering.batch.writes == 1
    steering.add_request("a", arguments(3.0), 3)
    steering.write(step("a"))
    assert coefficients(steering, 1) == [3.0]
    steering.remove_request("a")
    steering.add_request("a", None, 3)
    steering.write(step("a"))
    assert coefficients(steering, 1) == [0.0]


def test_the_prompts_length_is_that_of_the_request_that_has_the_id_now() -> None:
    steering = make_steering()
    steering.add_request("a", arguments(2.0, "prompt"), 5)
    steering.write(step("a"))
    assert coefficients(steering, 1) == [2.0]
    steering.add_request("a", arguments(2.0, "prompt"), 4)  # position 4 is generated now
    steering.write(step("a"))
    assert coefficients(steering, 1) == [0.0]


def test_requests_that_wait_for_a_step_keep_their_setting_and_others_get_none_of_it() -> None:
    steering = make_steering()
    steering.add_request("a", arguments(2.0), 3)
    steering.add_request("b", None, 3)
    for requests, wanted in (
        (("a", "b"), [2.0, 0.0]),
        (("b",), [0.0]),
        (("b", "a"), [0.0, 2.0]),
        (("a",), [2.0]),
    ):
        steering.write(step(*requests))
        assert coefficients(steering, 2)[: len(wanted)] == wanted
        assert coefficients(steering, 32)[len(wanted) :] == [0.0] * (32 - len(wanted))


def test_nothing_is_written_while_nobody_is_steered() -> None:
    steering = make_steering()
    steering.add_request("a", {"other": 1}, 3)
    for at in range(3):
        steering.add_request(f"b{at}", None, 3)
        steering.write(step("a", f"b{at}"))
    assert steering.batch.writes == 0
    steering.add_request("c", arguments(1.0), 3)
    steering.write(step("a", "c"))
    assert coefficients(steering, 2) == [0.0, 1.0]
    steering.remove_request("c")
    steering.write(step("a"))
    assert coefficients(steering, 2) == [0.0, 0.0]
    writes = steering.batch.writes
    steering.add_request("d", None, 3)
    steering.write(step("a", "d"))
    assert steering.batch.writes == writes == 2
