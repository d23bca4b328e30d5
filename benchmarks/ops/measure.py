"""Measurement of one case: every variant is checked, then timed, and a record is built."""

from __future__ import annotations

from typing import Any, Protocol

from cases import Case, Inputs, Op, bytes_moved, random_inputs
from clocks import Timing
from compiled_peers import Compiler, failure
from moments_variants import moment_variants
from steering_variants import add_variants, norm_variants
from variants import OURS, PEERS, Bind, Variant, check

Record = dict[str, Any]

VARIANTS = {
    Op.steer_add_rms_norm: norm_variants,
    Op.steer_add: add_variants,
    Op.accumulate_moments: moment_variants,
}


class Clock(Protocol):
    def timings(
        self, binds: dict[str, Bind], inputs: Inputs, moved: int, rounds: int
    ) -> list[Timing]: ...


def checked_variants(case: Case, inputs: Inputs, compiler: Compiler) -> dict[str, Variant]:
    """Return the variants whose results are correct; a wrong peer is left out, faststeer raises."""
    checked = {}
    for name, variant in VARIANTS[case.op](case, inputs, compiler).items():
        try:
            check(name, variant, inputs)
        except AssertionError as error:
            if name in OURS:
                raise
            compiler.leave_out(name, case, failure(name, error))
        else:
            checked[name] = variant
    return checked


def measure(
    case: Case, device: str, clock: Clock, compiler: Compiler, *, rounds: int, copy: float
) -> list[Record]:
    """Return a record for each cache state that the clock can produce."""
    inputs = random_inputs(case, device)
    variants = checked_variants(case, inputs, compiler)
    binds = {name: variant.bind for name, variant in variants.items()}
    timings = clock.timings(binds, inputs, bytes_moved(case), rounds)
    return [record(case, variants, timing, copy) for timing in timings]


def record(case: Case, variants: dict[str, Variant], timing: Timing, copy: float) -> Record:
    moved = {name: bytes_moved(variant.work) for name, variant in variants.items()}
    seconds = {name: timing.samples.median(name) for name in variants}
    peers = [name for name in PEERS if name in variants]
    return {
        "op": case.op.value,
        "dtype": case.dtype.value,
        "rows": case.rows,
        "hidden": case.hidden,
        "vectors": case.vectors,
        "entries": case.entries.value,
        "groups": case.groups,
        "cache": timing.cache,
        "clock": timing.clock,
        "cores_elsewhere": timing.cores_elsewhere,
        "bytes": moved,
        "microseconds": {name: seconds[name] * 1e6 for name in variants},
        "share_of_copy": {name: moved[name] / seconds[name] / copy for name in variants},
        "speedup": {
            name: {peer: timing.samples.speedup(name, over=peer) for peer in peers}
            for name in OURS
            if name in variants
        },
        "kernels": _kernels(variants) if timing.clock != "loop" else {},
    }


def _kernels(variants: dict[str, Variant]) -> dict[str, int]:
    """Count the kernels of compiled code, on GPUs only: for a CPU the compiler counts loops."""
    return {name: variant.kernels for name, variant in variants.items() if variant.kernels}
