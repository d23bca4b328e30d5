"""Benchmark cases: their inputs, and the minimum number of bytes that one call moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-5
SEQUENCES = 8  # of a batch with per-sequence steering
ENTRY_BYTES = 8  # an int32 index and a float32 coefficient


class Op(str, Enum):
    steer_add_rms_norm = "steer_add_rms_norm"
    steer_add = "steer_add"
    accumulate_moments = "accumulate_moments"


class Dtype(str, Enum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"

    @property
    def element(self) -> torch.dtype:
        return getattr(torch, self.value)


class Entries(str, Enum):
    """Which rows share their entries (pairs of a vector and its coefficient)."""

    none = "none"
    shared = "shared"
    per_row = "per-row"
    per_sequence = "per-sequence"


@dataclass(frozen=True)
class Case:
    """One call: `vectors` entries per row of `rows` rows, or moments of `groups` row groups."""

    op: Op
    dtype: Dtype
    rows: int
    hidden: int
    vectors: int = 0
    entries: Entries = Entries.none
    vector_dtype: Dtype | None = None
    groups: int = 1

    def __str__(self) -> str:
        what = f"{self.op.value} {self.dtype.value} {self.rows}x{self.hidden}"
        if self.op is Op.accumulate_moments:
            return f"{what}, {self.groups} group{'s' * (self.groups > 1)}"
        return f"{what}, {self.vectors} vectors {self.entries.value}" if self.vectors else what

    @property
    def settings(self) -> int:
        """Return the number of rows of the index."""
        return {
            Entries.none: 0,
            Entries.shared: 1,
            Entries.per_row: self.rows,
            Entries.per_sequence: gcd(self.rows, SEQUENCES),
        }[self.entries]

    @property
    def distinct_vectors(self) -> int:
        """Count distinct vectors: all rows read the same ones unless sequences have their own."""
        own = self.settings if self.entries is Entries.per_sequence else 1
        return own * self.vectors


def unsteered(case: Case) -> Case:
    return replace(case, vectors=0, entries=Entries.none, vector_dtype=None)


def one_vector(case: Case, dtype: Dtype) -> Case:
    """Return the case with its vectors summed beforehand, in `dtype`, for all rows alike."""
    return replace(case, vectors=1, entries=Entries.shared, vector_dtype=dtype)


def bytes_moved(case: Case) -> int:
    """Return the minimum bytes that one call moves; reused data counts once.

    Steering reads x and the residual and writes the residual, the norm reads its weight and writes
    out. Each distinct vector is read once, and each row of the index with its coefficients once.
    Moments read x, a group number per row if there are groups, and read and write their state:
    an int64 count per group, a float64 mean and second moment per feature.
    """
    element = case.dtype.element.itemsize
    row = case.hidden * element
    if case.op is Op.accumulate_moments:
        group_numbers = 4 * case.rows if case.groups > 1 else 0
        state = case.groups * (8 + 2 * 8 * case.hidden)
        return case.rows * row + group_numbers + 2 * state
    vector = case.hidden * (case.vector_dtype or case.dtype).element.itemsize
    entries = case.settings * case.vectors * ENTRY_BYTES
    steering = 3 * case.rows * row + case.distinct_vectors * vector + entries
    norm = case.rows * row + row if case.op is Op.steer_add_rms_norm else 0
    return steering + norm


class Steering(NamedTuple):
    """Inputs of the steering ops: x and residual ``[N, H]``, weight ``[H]``, vectors ``[S, H]``,
    index and coefficient ``[R, K]``."""

    x: Tensor
    residual: Tensor
    weight: Tensor
    vectors: Tensor | None
    index: Tensor | None
    coefficient: Tensor | None

    @property
    def entries(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.vectors, self.index, self.coefficient


class Moments(NamedTuple):
    """Inputs of the moments op: x ``[N, H]``, group ``[N]`` or None, and an empty state: count
    ``[G]``, mean and m2 ``[G, H]``."""

    x: Tensor
    group: Tensor | None
    count: Tensor
    mean: Tensor
    m2: Tensor


Inputs = Steering | Moments


def random_inputs(case: Case, device: str = "cpu") -> Inputs:
    draw = torch.Generator(device).manual_seed(0)
    if case.op is Op.accumulate_moments:
        return _random_moments(case, draw)
    dtype = case.dtype.element
    entries = _random_entries(case, draw) if case.vectors else None
    x, residual = _normal(draw, 2, case.rows, case.hidden).to(dtype)
    weight = _normal(draw, case.hidden).to(dtype)
    if entries is None:
        return Steering(x, residual, weight, None, None, None)
    vector_dtype = (case.vector_dtype or case.dtype).element
    vectors = _normal(draw, case.distinct_vectors, case.hidden).to(vector_dtype)
    return Steering(x, residual, weight, vectors, *entries)


def copied(inputs: Inputs) -> Inputs:
    """Return the same values in newly allocated memory."""
    return type(inputs)(*(None if each is None else each.clone() for each in inputs))


def size(inputs: Inputs) -> int:
    return sum(each.nbytes for each in inputs if each is not None)


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, device=draw.device)


def _random_entries(case: Case, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (case.settings, case.vectors)
    if case.entries is Entries.per_sequence:
        index = torch.arange(case.distinct_vectors, device=draw.device).view(shape)
        return index.int(), torch.ones(shape, device=draw.device)
    # Every row reads every vector, each in a different order.
    index = torch.rand(shape, generator=draw, device=draw.device).argsort(1).int()
    return index, _normal(draw, *shape)


def _random_moments(case: Case, draw: torch.Generator) -> Moments:
    # A mean of three deviations exposes sums of squares that are not centred.
    x = (_normal(draw, case.rows, case.hidden) + 3).to(case.dtype.element)
    of_rows = {"generator": draw, "device": draw.device, "dtype": torch.int32}
    group = torch.randint(case.groups, (case.rows,), **of_rows) if case.groups > 1 else None
    count = torch.zeros(case.groups, dtype=torch.int64, device=draw.device)
    state = torch.zeros(2, case.groups, case.hidden, dtype=torch.float64, device=draw.device)
    return Moments(x, group, count, state[0], state[1])
