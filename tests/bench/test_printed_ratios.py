"""`check`, `demo` and `bench` print times and ratios that agree, and no verdict within scatter."""

from __future__ import annotations

import re

import pytest
from checks import tiny
from rich.console import Console

from faststeer.cli import demo_tour
from faststeer.diagnostics.bench import phases, run
from faststeer.diagnostics.bench.costs import costs
from faststeer.diagnostics.bench.timing import Samples
from faststeer.diagnostics.bench.variants import NAMES, STOCK
from faststeer.vectors.random import random_vector

# The median of the rounds' ratios is 1.05, the ratio of the medians 0.7: milliseconds of both
# beside the ratio would say the opposite of it.
SLOW, STEERED = [0.1, 0.2, 0.3, 1.0, 1.0], [0.11, 0.21, 0.3, 1.1, 0.2]
NEVER = "cannot be told apart"
CASES = {
    "slower": ([1.0, 1.0, 2.0, 2.0, 1.0], [1.1, 1.2, 2.2, 2.2, 1.1]),
    "faster": ([1.0, 1.0, 2.0, 2.0, 1.0], [0.9, 0.8, 1.8, 1.8, 0.9]),
    NEVER: (SLOW, STEERED),
    "too few rounds to tell": ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]),
}


def rounds_of(monkeypatch: pytest.MonkeyPatch, stock: list[float], steered: list[float]) -> None:
    """Replace all measurements by these seconds, of the stock model and of every other variant."""

    def measured(variants, *options) -> Samples:
        return Samples({name: stock if name == first(variants) else steered for name in variants})

    def first(variants) -> str:
        return next(iter(variants))

    monkeypatch.setattr(phases, "prefill", measured)
    monkeypatch.setattr(phases, "decode", measured)
    monkeypatch.setattr(demo_tour, "decode", measured)
    for phase in (phases.PREFILL, phases.DECODE):
        monkeypatch.setitem(phases.PHASES, phase, measured)


def check_lines() -> list[str]:
    return [finding.measured for finding in costs(tiny().model)]


def bench_lines() -> list[str]:
    console = Console(width=120)
    with console.capture() as shown:
        run.run(tiny(), run.Settings(prompt_tokens=2, new_tokens=1, rounds=5), console)
    return [line for line in shown.get().splitlines() if "vector" in line]


def demo_lines() -> list[str]:
    loaded, console = tiny(), Console(width=120)
    vector = random_vector("v", {1: 1.0}, 64, seed=0)
    with console.capture() as shown:
        demo_tour._show_cost(loaded, [vector], console)
    return [line for line in shown.get().splitlines() if "steered with" in line]


COMMANDS = {"check": check_lines, "bench": bench_lines, "demo": demo_lines}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_time_of_a_steered_model_stands_beside_a_ratio_that_it_contradicts(
    command, monkeypatch
) -> None:
    rounds_of(monkeypatch, SLOW, STEERED)
    lines = COMMANDS[command]()
    assert lines
    for line in lines:
        assert not re.search(r"\b210(\.0+)?\b", line)  # the steered median, in milliseconds
        assert re.search(r"\b1\.050\b.*\b1\.000-1\.100\b", line)


@pytest.mark.parametrize("verdict", CASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_verdict_is_given_only_where_the_middle_half_of_the_rounds_excludes_1(
    command, verdict, monkeypatch
) -> None:
    stock, steered = CASES[verdict]
    rounds_of(monkeypatch, stock, steered)
    if command == "bench":
        real = run.Settings
        monkeypatch.setattr(run, "Settings", lambda **own: real(**own | {"rounds": len(stock)}))
    for line in COMMANDS[command]():
        assert [word for word in CASES if word in line] == [verdict]


@pytest.mark.parametrize("command", ["check", "demo"])
def test_stock_s_own_median_is_printed(command, monkeypatch) -> None:
    rounds_of(monkeypatch, SLOW, STEERED)
    console = Console(width=120)
    if command == "check":
        assert all("stock takes 300.00 ms" in line for line in check_lines())
        return
    with console.capture() as shown:
        demo_tour._show_cost(tiny(), [random_vector("v", {1: 1.0}, 64, seed=0)], console)
    assert re.search(r"stock, unsteered +300\.00 ms per token", shown.get())


def test_the_table_of_bench_has_the_milliseconds_of_stock_alone(monkeypatch) -> None:
    rounds_of(monkeypatch, SLOW, STEERED)
    console = Console(width=120)
    settings = run.Settings(prompt_tokens=2, new_tokens=1, rounds=5)
    with console.capture() as shown:
        record = run.run(tiny(), settings, console)
    assert re.search(rf"{STOCK} +300\.00 ms *\n", shown.get())
    assert {row["variant"]: row["milliseconds"] for row in record["results"]} == {
        name: pytest.approx(300.0 if name == STOCK else 210.0) for name in NAMES
    }
