"""torch.compile for the peers: which are compiled, which are left out, and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import Case, Dtype, Entries, Op
from variants import COMPILED, COMPILED_UNSTEERED

Function = Callable[..., Any]

# On a GPU, where the grid has ten times the cases of the CPU's: the rows that targets cover,
# and two below for the plot. A compilation takes seconds.
GPU_ROWS = {
    Op.steer_add_rms_norm: (1, 64, 2048, 8192, 32768),
    Op.steer_add: (2048, 8192),
    Op.accumulate_moments: (8192, 32768),
}


def compiled_by_default(name: str, case: Case, device: str) -> bool:
    if device == "cpu":
        return name == COMPILED or case.entries is Entries.none
    if case.dtype is not Dtype.bfloat16:
        return False
    if name == COMPILED_UNSTEERED:
        return case.op is Op.steer_add_rms_norm
    chosen = case.groups == 1 if case.op is Op.accumulate_moments else case.vectors == 4
    return chosen and case.rows in GPU_ROWS[case.op]


@dataclass(frozen=True)
class LeftOut:
    """A peer that was not measured in a case."""

    name: str
    case: Case
    why: str

    def as_record(self) -> dict[str, str]:
        return {"variant": self.name, "case": str(self.case), "why": self.why}


@dataclass(frozen=True)
class Compiled:
    function: Function
    kernels: int  # of the generated code; one means that everything was fused


class Compiler:
    """Compiler for one number of rows at a time, with a time budget in seconds."""

    def __init__(
        self,
        wants: Callable[[str, Case], bool],
        seconds: float = float("inf"),
        compile_function: Callable[..., Function] = torch.compile,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.left_out: list[LeftOut] = []
        self._wants, self._seconds_left = wants, seconds
        self._compile, self._clock = compile_function, clock
        self._made: dict[tuple[str, Case], Compiled | str] = {}

    def begin_rows(self) -> None:
        """Forget all compiled functions: torch recompiles a function for only a few shapes."""
        torch.compiler.reset()
        self._made.clear()

    def made(
        self, name: str, case: Case, work: Case, function: Function, arguments: tuple[Any, ...]
    ) -> Compiled | None:
        """Compile `function` and call it once; return None and record the reason if it is left out.

        Cases in which it does the same work share the compiled function.
        """
        if not self._wants(name, case):
            return self.leave_out(name, case, "not selected")
        if (name, work) not in self._made:
            if self._seconds_left <= 0:
                return self.leave_out(name, case, "no seconds left for compiling")
            self._made[name, work] = self._attempt(name, function, arguments)
        made = self._made[name, work]
        return self.leave_out(name, case, made) if isinstance(made, str) else made

    def leave_out(self, name: str, case: Case, why: str) -> None:
        self.left_out.append(LeftOut(name, case, why))

    def _attempt(self, name: str, function: Function, arguments: tuple[Any, ...]) -> Compiled | str:
        from torch._inductor import metrics

        kernels_before, began = metrics.generated_kernel_count, self._clock()
        try:
            compiled = self._compile(function, fullgraph=True, dynamic=False)
            compiled(*arguments)
        except Exception as error:
            return failure(name, error)
        finally:
            self._seconds_left -= self._clock() - began
        return Compiled(compiled, metrics.generated_kernel_count - kernels_before)


def failure(name: str, error: Exception) -> str:
    """Return the record's reason for a peer that does not run here.

    The message, which may contain paths, is only printed.
    """
    print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    return f"failed with {type(error).__name__}"
