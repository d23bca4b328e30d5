"""The grids of cases that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cases import Case, Dtype, Entries, Op

# Many rows first, in case time runs out: more targets cover them.
GPU_ROWS = (2048, 8192, 32768, 1, 4, 16, 64, 256)
STEERED = (Entries.per_row, Entries.shared)


@dataclass(frozen=True)
class Grid:
    """All combinations of settings. Sequences have one vector each; moments have 1 or 2 groups."""

    ops: Sequence[Op]
    dtypes: Sequence[Dtype]
    rows: Sequence[int]
    vectors: Sequence[int] = (0,)
    entries: Sequence[Entries] = STEERED
    hidden: int = 4096

    def cases(self) -> Iterator[Case]:
        for op in self.ops:
            for dtype in self.dtypes:
                for rows in self.rows:
                    yield from self._of_rows(Case(op, dtype, rows, self.hidden))

    def _of_rows(self, case: Case) -> Iterator[Case]:
        if case.op is Op.accumulate_moments:
            yield from (replace(case, groups=groups) for groups in (1, 2))
            return
        for vectors in self.vectors:
            if vectors == 0:
                yield case
                continue
            for entries in self.entries:
                if entries in STEERED:
                    yield replace(case, vectors=vectors, entries=entries)
                elif entries is Entries.per_sequence and vectors == 1:
                    # A model does this with any number of vectors: they are summed beforehand.
                    yield replace(case, vectors=1, entries=entries, vector_dtype=Dtype.float32)


CPU = (Grid([Op.steer_add_rms_norm], [Dtype.bfloat16], (1, 8, 64, 512, 4096), (4,)),)
# Few cases under pytest-benchmark, since each variant is a test.
CALLS = (
    Grid([Op.steer_add_rms_norm], [Dtype.bfloat16], (1, 64, 512), (0, 4)),
    Grid([Op.steer_add], [Dtype.bfloat16], (1, 64, 512), (4,), [Entries.shared]),
    Grid([Op.accumulate_moments], [Dtype.bfloat16], (1, 64, 512)),
)
# Cases that targets cover come first here too. Every op and dtype, but only one with all rows
# and all numbers of vectors: together they would take a quarter of an hour.
GPU = (
    Grid(
        [Op.steer_add_rms_norm],
        [Dtype.bfloat16],
        GPU_ROWS,
        (0, 1, 4, 8),
        (*STEERED, Entries.per_sequence),
    ),
    Grid([Op.accumulate_moments], [Dtype.bfloat16, Dtype.float32], GPU_ROWS),
    Grid([Op.steer_add], [Dtype.bfloat16], (16, 2048, 8192, 32768), (0, 4)),
    Grid([Op.steer_add_rms_norm], [Dtype.float16, Dtype.float32], (16, 2048, 8192), (0, 4)),
)


def default_grids(device: str, full: bool) -> tuple[Grid, ...]:
    """Return the default grids; options select from the first. `full`: every op and dtype."""
    grids = CPU if device == "cpu" else GPU
    return (replace(grids[0], ops=tuple(Op), dtypes=tuple(Dtype)),) if full else grids
