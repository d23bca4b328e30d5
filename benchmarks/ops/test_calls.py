"""The ops under pytest-benchmark, for comparison with the last committed run: `make bench`.

Nothing here asserts a time. Peers are included for scale, without torch.compile, whose first calls
would take longer than everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import Case, Op, bytes_moved, random_inputs
from compiled_peers import Compiler
from grids import CALLS
from measure import checked_variants
from variants import EAGER, FRESH, INTO, STOCK

CASES = {str(case): case for grid in CALLS for case in grid.cases()}
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def variants_in(case: Case) -> list[str]:
    if case.op is not Op.steer_add_rms_norm:
        return [STOCK, FRESH]
    return [STOCK, FRESH, INTO, *([EAGER] if case.vectors else [])]


PAIRS = [(name, variant) for name, case in CASES.items() for variant in variants_in(case)]


@pytest.fixture(autouse=True)
def two_threads_without_gradients() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(max_time=0.25, warmup=True, warmup_iterations=20)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "variant"), PAIRS)
def test_op(name: str, variant: str, device: str, benchmark: Any) -> None:
    """Time a call from the host: on a GPU including its launch and synchronization."""
    case = CASES[name]
    inputs = random_inputs(case, device)
    variants = checked_variants(case, inputs, Compiler(lambda name, case: False))
    call = variants[variant].bind(inputs)

    def waited() -> None:
        call()
        torch.cuda.synchronize()

    benchmark.group = f"{case} on {device}"
    benchmark.extra_info["bytes"] = bytes_moved(variants[variant].work)
    benchmark(waited if device == "cuda" else call)
