"""What is written for the tokens of each step, against what the terms of each token mean."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from served import HIDDEN, expected, make_batch, make_slots, make_store

from faststeer import ops
from faststeer.vectors.sites import Site
from faststeer.vllm.batch import Batch, Step
from faststeer.vllm.slots import Slots
from faststeer.vllm.terms import parse_terms
from faststeer.vllm.timeline import Timeline

STORE = make_store()


def steered(batch: Batch, slots: Slots, site: int, hidden: torch.Tensor) -> torch.Tensor:
    """Return the tokens ``[N, H]`` as the op steers them at a site."""
    count = len(hidden)
    return ops.steer_add(
        None,
        hidden,
        slots.vectors[site],
        batch.index[site, :count],
        batch.coefficient[site, :count],
        slots.modes,
    )


@dataclass
class Request:
    """A request of the trace."""

    prompt: int
    timeline: Timeline | None
    done: int = 0


def random_terms(chooser: random.Random) -> list[dict[str, object]]:
    scopes = ("all", "prompt", "generated", "last", "1:3", "-2:", "6:9")
    names = chooser.sample(["one", "three", "mid"], k=chooser.randint(1, 2))
    return [
        {
            "vector": name,
            **random_use(chooser),
            "keep_norm": chooser.random() < 0.2,
            "positions": chooser.choice(scopes),
        }
        for name in names
    ]


def random_use(chooser: random.Random) -> dict[str, object]:
    mode = chooser.choice(["add", "add", "project", "clamp", "cap"])
    if mode == "cap":
        low, high = sorted(round(chooser.uniform(-1, 1), 6) for _ in range(2))
        return chooser.choice([{"floor": low}, {"ceiling": high}, {"floor": low, "ceiling": high}])
    return {"mode": mode, "coefficient": round(chooser.uniform(-2, 2), 6)}


def test_a_long_random_trace_steers_every_token_as_its_own_request_asks() -> None:
    """Requests come, are chunked, preempted, rolled back, cancelled, and their ids reused."""
    chooser = random.Random(3)
    slots = make_slots(STORE)
    batch = make_batch(slots)
    hidden = torch.randn(256, HIDDEN, generator=torch.Generator().manual_seed(5))
    running: dict[str, Request] = {}
    waiting: dict[str, Request] = {}
    skipped = checked = 0
    for _ in range(600):
        changed = False
        if chooser.random() < 0.25 and len(running) < 12:
            name = f"r{chooser.randint(0, 15)}"  # ids are used again
            if name not in waiting:
                prompt = chooser.randint(1, 9)
                terms = parse_terms(random_terms(chooser), STORE)
                timeline = None if chooser.random() < 0.3 else Timeline.of(terms, prompt)
                running.pop(name, None)
                running[name] = Request(prompt, timeline)
                changed = True
        if running and chooser.random() < 0.1:  # cancelled or finished
            running.pop(chooser.choice(list(running)))
            changed = True
        if running and chooser.random() < 0.05:  # preempted: its tokens are computed again
            name = chooser.choice(list(running))
            waiting[name] = running.pop(name)
            waiting[name].done = 0
            changed = True
        if waiting and chooser.random() < 0.2:
            name = chooser.choice(list(waiting))
            running[name] = waiting.pop(name)
            changed = True
        if changed and chooser.random() < 0.3:  # the engine reorders its batch
            running = dict(chooser.sample(list(running.items()), k=len(running)))
        if not running:
            continue
        for request in running.values():
            if request.done > request.prompt and chooser.random() < 0.1:
                request.done -= 1  # a rejected draft
        names = list(running)
        counts = [
            min(chooser.choice([2, 4]), own.prompt - own.done) if own.done < own.prompt else 1
            for own in running.values()
        ]
        scheduled = np.array(counts, dtype=np.int32)
        computed = np.array([own.done for own in running.values()], dtype=np.int32)
        before = batch.writes
        current = {n: own.timeline for n, own in running.items() if own.timeline is not None}
        batch.write(Step(names, scheduled, computed), current, changed)
        skipped += batch.writes == before
        total = int(scheduled.sum())
        for number, site in enumerate(STORE.sites):
            found = steered(batch, slots, number, hidden[:total])
            at = 0
            for name, count in zip(names, counts, strict=True):
                own = running[name]
                for position in range(own.done, own.done + count):
                    active: list[object] = []
                    if own.timeline is not None:
                        active = list(own.timeline.between(position, position + 1)[0][2])
                    wanted = expected(STORE, site, active, hidden[at])
                    torch.testing.assert_close(found[at].double(), wanted, atol=2e-6, rtol=2e-6)
                    checked += bool(active)
                    at += 1
            # what lies behind the step's tokens is padding, and not steered
            assert (batch.index[number, total:] == -1).all()
        for own, count in zip(running.values(), counts, strict=True):
            own.done += count
    assert skipped > 100
    assert checked > 3000
    assert batch.lines.room == 64  # of the few hundred settings that have come and gone


def test_distinct_settings_take_no_room_once_they_are_gone() -> None:
    slots = make_slots(STORE)
    batch = make_batch(slots)
    one = np.ones(200, dtype=np.int32)
    for turn in range(20):
        timelines = {
            f"{turn}-{n}": Timeline.of(
                parse_terms([{"vector": "one", "coefficient": turn + n / 1000}], STORE), 1
            )
            for n in range(200)
        }
        batch.write(Step(list(timelines), one, 0 * one), timelines, True)
        used = batch.coefficient[slots.sites[Site(1, "resid_post")], :200, 0]
        assert used.unique().numel() == 200
    assert batch.lines.room == 256
    assert len(batch.lines) <= 255


def test_a_step_like_the_last_one_is_not_written_again() -> None:
    slots = make_slots(STORE)
    batch = make_batch(slots)
    terms = parse_terms([{"vector": "one", "positions": "0:6"}], STORE)
    timelines = {"a": Timeline.of(terms, 3)}
    one = np.ones(2, dtype=np.int32)
    writes = []
    for position in range(3, 10):
        step = Step(["a", "b"], one, np.full(2, position, dtype=np.int32))
        batch.write(step, timelines, position == 3)
        writes.append(batch.writes)
    assert writes == [1, 1, 1, 2, 2, 2, 2]  # position 6 is no longer steered
    assert (batch.index[:, :2] == -1).all()
