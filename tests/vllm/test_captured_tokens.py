"""Which tokens a capture counts, step by step, as an engine schedules them."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from faststeer import ops
from faststeer.vectors.position_range import parse_positions
from faststeer.vectors.sites import Site
from faststeer.vllm.batch import Step
from faststeer.vllm.captured_tokens import CAPTURE_KEY, CHECKED_CAPTURE_KEY, CaptureRequest
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.request_checks import RequestChecks
from faststeer.vllm.statistics import Statistics
from faststeer.vllm.vector_store import VectorStore

HIDDEN, LAYERS, GROUPS, TOKENS = 8, [2, 5], 3, 64
ROWS = torch.randn(len(LAYERS), 40, 50, HIDDEN, generator=torch.Generator().manual_seed(0))


def make_statistics() -> Statistics:
    return Statistics(LAYERS, HIDDEN, GROUPS, 100, TOKENS, torch.device("cpu"))


def forward(statistics: Statistics, step: Step) -> None:
    """Do what the counted modules do: padding has rows of its own, which must not count."""
    tokens = int(step.scheduled.sum()) + 3
    for at, layer in enumerate(LAYERS):
        hidden = torch.full((tokens, HIDDEN), 1e6)
        begin = 0
        for request, count, start in zip(
            step.request_ids, step.scheduled.tolist(), step.computed.tolist(), strict=True
        ):
            hidden[begin : begin + count] = ROWS[at, int(request), start : start + count]
            begin += count
        own = statistics.tensors(layer)
        ops.accumulate_moments(hidden, own["group"][:tokens], own["count"], own["mean"], own["m2"])
        own["norms"].index_copy_(0, own["place"][:tokens], hidden.norm(dim=-1))


class Run:
    """Requests of which some are captured, scheduled at random."""

    def __init__(self, asked: dict[str, CaptureRequest], prompts: dict[str, int]) -> None:
        self.statistics = make_statistics()
        self.asked = {name: json.loads(json.dumps(own.to_wire())) for name, own in asked.items()}
        self.prompts = prompts

    def captures(self) -> dict[str, tuple[list[Any], int]]:
        return {name: (wire, self.prompts[name]) for name, wire in self.asked.items()}

    def go(self, lengths: dict[str, int], chooser: random.Random) -> int:
        """Compute all requests up to their lengths. Returns how many tokens were computed twice."""
        waiting, done = list(lengths), dict.fromkeys(lengths, 0)
        running: list[str] = []
        most, again = dict(done), 0
        while waiting or running:
            if waiting and len(running) < 6:
                running.append(waiting.pop(0))
            if len(running) > 1 and chooser.random() < 0.3:  # preempted, to start again
                name = running.pop()
                done[name] = 0
                waiting.append(name)
            counts = [
                min(chooser.choice([1, 4, 9]), self.prompts[name] - done[name])
                if done[name] < self.prompts[name]
                else 1
                for name in running
            ]
            step = Step(list(running), np.array(counts), np.array([done[n] for n in running]))
            self.statistics.write(step, self.captures())
            forward(self.statistics, step)
            for name, count in zip(running, counts, strict=True):
                again += max(0, min(done[name] + count, most[name]) - done[name])
                done[name] += count
                most[name] = max(most[name], done[name])
            running = [name for name in running if done[name] < lengths[name]]
        return again


def positions_of(asked: CaptureRequest, layer: int, prompt: int, length: int) -> list[int]:
    spans = asked.spans(prompt)
    return [
        at
        for at in range(length)
        if any(start <= at < stop for start, stop in spans)
        and at not in asked.left_out.get(layer, ())
    ]


def test_each_position_counts_once_in_its_group_whatever_the_chunks_and_preemptions() -> None:
    chooser = random.Random(1)
    names = [str(n) for n in range(40)]
    prompts = {name: chooser.randint(1, 30) for name in names}
    lengths = {name: own + chooser.choice([0, 0, 15]) for name, own in prompts.items()}
    asked = {}
    place = 0
    for serial, name in enumerate(names):
        if chooser.random() < 0.3:
            continue  # an ordinary request
        where: Any = parse_positions(chooser.choice(["all", "last", "generated", "2:6", "-3:"]))
        if chooser.random() < 0.3:
            where = [(1, 2), (4, 9)]
        norms = place if chooser.random() < 0.5 else None
        asked[name] = CaptureRequest(
            serial,
            chooser.randrange(GROUPS),
            where,
            {5: [0, 4, 5]} if chooser.random() < 0.5 else {},
            norms,
            chooser.random() < 0.5,
        )
        place += prompts[name]
    run = Run(asked, prompts)
    again = run.go(lengths, chooser)
    assert again > 20  # otherwise nothing was shown of preemption
    for at, layer in enumerate(LAYERS):
        state = run.statistics.tensors(layer)
        for group in range(GROUPS):
            rows = torch.cat(
                [
                    ROWS[at, int(name), positions_of(own, layer, prompts[name], lengths[name])]
                    for name, own in asked.items()
                    if own.group == group
                ]
            ).double()
            assert int(state["count"][group]) == len(rows) > 2
            torch.testing.assert_close(state["mean"][group], rows.mean(0), rtol=1e-6, atol=1e-6)
            m2 = (rows - rows.mean(0)).square().sum(0)
            torch.testing.assert_close(state["m2"][group], m2, rtol=1e-5, atol=1e-5)
        for name, own in asked.items():
            if own.norms is not None:
                norms = ROWS[at, int(name), : prompts[name]].norm(dim=-1)
                found = state["norms"][own.norms : own.norms + prompts[name]]
                torch.testing.assert_close(found, norms)


def test_a_step_behind_a_captured_one_counts_nothing() -> None:
    run = Run({"1": CaptureRequest(0, 0)}, {"1": 9, "2": 9})
    run.go({"1": 9}, random.Random(0))
    step = Step(["2"], np.array([9]), np.array([0]))
    run.statistics.write(step, run.captures())
    forward(run.statistics, step)
    assert run.statistics.tensors(2)["count"].tolist() == [9, 0, 0]


def test_after_a_reset_the_same_serial_is_another_request() -> None:
    run = Run({"1": CaptureRequest(0, 1)}, {"1": 9})
    for _ in range(2):
        run.statistics.reset()
        run.go({"1": 9}, random.Random(0))
        assert run.statistics.tensors(5)["count"].tolist() == [0, 9, 0]


def test_an_engine_may_start_with_captured_layers_and_without_vectors() -> None:
    configuration = Configuration.of({"faststeer": {"capture": [3, 1]}})
    assert configuration is not None
    assert configuration.folder is None
    store = VectorStore.of(configuration, HIDDEN, 4)
    assert store.sites == [Site(1, "resid_post"), Site(3, "resid_post")]
    assert not store.vectors
    with pytest.raises(ValueError, match="layer 4 is out of range"):
        VectorStore.of(Configuration(None, capture=(4,)), HIDDEN, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs vectors, the folder of the vectors; or layers"),
        ({"vectors": 3, "capture": [1]}, "vectors is 3; expected the folder"),
        ({"capture": ["a"]}, "capture is .'a'.; expected a list of layer numbers"),
        ({"capture": [1], "capture_groups": 0}, "capture_groups is 0; expected a number above 0"),
    ],
)
def test_a_wrong_configuration_is_refused(
    given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTSTEER_VECTORS", raising=False)
    with pytest.raises(ValueError, match=message):
        Configuration.of({"faststeer": given})


def checks_of(configuration: Configuration) -> RequestChecks:
    return RequestChecks(configuration, VectorStore.of(configuration, HIDDEN, 8))


def test_only_a_capture_of_this_process_reaches_the_engine() -> None:
    checks = checks_of(Configuration(None, capture=(2,)))
    asked = CaptureRequest(4, 1, parse_positions("-3:"), {2: [0]}, 7, False)
    found = checks.checked({CAPTURE_KEY: asked, "other": 1}, False)
    assert found == {"other": 1, CHECKED_CAPTURE_KEY: asked.to_wire()}
    assert CaptureRequest.from_wire(found[CHECKED_CAPTURE_KEY]) == asked
    for given in (
        {CAPTURE_KEY: asked.to_wire()},
        {CAPTURE_KEY: json.dumps({"group": 0})},
        {CHECKED_CAPTURE_KEY: asked.to_wire()},
    ):
        with pytest.raises(ValueError, match=r"are not arguments of requests; call .*capture"):
            checks.checked(given, False)


def test_an_engine_without_captured_layers_refuses_a_capture() -> None:
    checks = checks_of(Configuration(None, layers=(2,)))
    with pytest.raises(ValueError, match="this engine captures no statistics: start it with"):
        checks.checked({CAPTURE_KEY: CaptureRequest(0, 0)}, False)
