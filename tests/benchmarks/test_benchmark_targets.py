"""Verdicts follow from the records and are given only where they apply."""

from __future__ import annotations

from typing import Any

import pytest
from cases import Case, Dtype, Entries, Op
from clocks import Timing
from measure import record
from targets import CPU_TARGETS, GPU_TARGETS, Target, targets_for, verdicts_on
from variants import COMPILED, COMPILED_UNSTEERED, FRESH, INTO, LIGER, STOCK, Variant

from faststeer.diagnostics.bench.timing import Samples

STEERED = Case(Op.steer_add_rms_norm, Dtype.bfloat16, 2048, 4096, 4, Entries.shared)
OVER_KERNELS = Target(FRESH, 1 / 1.03, (2048,), (COMPILED_UNSTEERED, LIGER))
OVER_STEERED = Target(FRESH, 1.5, (2048,), (COMPILED,), unless_fused=True)


def measured(
    case: Case = STEERED, cache: str = "cold", kernels: int = 3, **seconds: float
) -> dict[str, Any]:
    """Return a record of variants with these times; FRESH takes 2 seconds by default."""
    names = {"compiled": COMPILED, "unsteered": COMPILED_UNSTEERED, "liger": LIGER, "into": INTO}
    times = {FRESH: 2.0} | {names[name]: value for name, value in seconds.items()}
    variants = {
        name: Variant(case, lambda _: None, lambda _: None, None, kernels * (name == COMPILED))
        for name in times
    }
    samples = Samples({name: [value] * 3 for name, value in times.items()})
    return record(case, variants, Timing(cache, "graph", samples), copy=67_125_280)


def test_a_record_has_bytes_time_share_and_speedup() -> None:
    # 64 MiB, the weight, four vectors and four entries: the copy moves 67,125,280 bytes a second.
    made = measured(compiled=5.0, kernels=2)
    assert made["bytes"] == {FRESH: 67_149_856, COMPILED: 67_149_856}
    assert made["microseconds"] == {FRESH: 2e6, COMPILED: 5e6}
    assert made["share_of_copy"][FRESH] == pytest.approx(67_149_856 / 2 / 67_125_280)
    assert made["speedup"] == {FRESH: {COMPILED: 2.5}}
    assert made["kernels"] == {COMPILED: 2}


def test_the_best_of_the_peers_that_were_measured_counts() -> None:
    both = verdicts_on([OVER_KERNELS], [measured(unsteered=3.0, liger=1.8)])
    assert [(each["over"], each["reached"], each["met"]) for each in both] == [(LIGER, 0.9, False)]
    one = verdicts_on([OVER_KERNELS], [measured(unsteered=3.0)])
    assert [(each["over"], each["met"]) for each in one] == [(COMPILED_UNSTEERED, True)]
    assert verdicts_on([OVER_KERNELS], [measured(compiled=3.0)]) == []


def test_three_percent_slower_is_met_and_four_is_not() -> None:
    reached = {
        peer: verdicts_on([OVER_KERNELS], [measured(liger=peer)])[0]["met"]
        for peer in (2 / 1.02, 2 / 1.04)
    }
    assert list(reached.values()) == [True, False]


def test_a_share_of_the_copy_needs_no_peer() -> None:
    target = Target(INTO, 0.9, (2048,))
    verdicts = verdicts_on([target], [measured(into=1.1), measured(into=1.2)])
    assert [(each["over"], each["met"]) for each in verdicts] == [(None, True), (None, False)]


def test_where_torch_compile_fused_everything_the_verdict_is_informational() -> None:
    slow, fused, fast = (
        verdicts_on([OVER_STEERED], [measured(compiled=seconds, kernels=kernels)])[0]
        for seconds, kernels in ((2.4, 3), (2.4, 1), (4.0, 3))
    )
    assert (slow["met"], fused["met"], fast["met"]) == (False, None, True)
    assert fused["reached"] == pytest.approx(1.2)


@pytest.mark.parametrize(
    "other",
    [
        {"cache": "warm"},
        {"case": Case(STEERED.op, Dtype.float16, 2048, 4096, 4, Entries.shared)},
        {"case": Case(STEERED.op, Dtype.bfloat16, 2048, 2048, 4, Entries.shared)},
        {"case": Case(STEERED.op, Dtype.bfloat16, 256, 4096, 4, Entries.shared)},
        {"case": Case(STEERED.op, Dtype.bfloat16, 2048, 4096, 8, Entries.shared)},
        {"case": Case(STEERED.op, Dtype.bfloat16, 2048, 4096, 4, Entries.per_row)},
        {"case": Case(Op.steer_add, Dtype.bfloat16, 2048, 4096, 4, Entries.shared)},
    ],
)
def test_a_target_gives_no_verdict_on_other_cases(other: dict[str, Any]) -> None:
    assert verdicts_on([OVER_KERNELS], [measured(liger=3.0)]) != []
    assert verdicts_on([OVER_KERNELS], [measured(liger=3.0, **other)]) == []


def test_targets_apply_only_to_the_hardware_they_were_set_for() -> None:
    assert targets_for({"threads": 2}, "cpu") is CPU_TARGETS
    assert targets_for({"threads": 4}, "cpu") == ()
    assert targets_for({"threads": 2, "gpu": "NVIDIA H100 80GB HBM3"}, "cuda") is GPU_TARGETS
    assert targets_for({"threads": 2, "gpu": "NVIDIA L4"}, "cuda") == ()


def test_stock_is_a_peer_of_every_target_of_the_cpu_that_names_it() -> None:
    over_stock = [target for target in CPU_TARGETS if target.over == (STOCK,)]
    assert {target.rows for target in over_stock} == {(1,), (8,), (64,), (512,)}
