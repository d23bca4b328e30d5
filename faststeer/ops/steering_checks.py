"""Checks of a steering call in Python, for kernels that have none: those of csrc/common.

All raise ValueError before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from faststeer.ops.checks import require_one_device
from faststeer.ops.reference import MODE_NUMBERS

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class SteeringCall:
    """The tensors of a checked call; rows are ``[N, H]`` with a dense last dimension."""

    residual: Tensor
    x: Tensor | None
    weight: Tensor | None  # [1, H]
    vectors: Tensor | None
    index: Tensor | None
    coefficient: Tensor | None
    modes: Tensor | None

    @property
    def tokens(self) -> int:
        """Return N."""
        return self.residual.shape[0]


def checked(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor | None,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    modes: Tensor | None,
) -> SteeringCall:
    """Return the inputs of a call as a kernel reads them. Rows that are not dense are copied."""
    require_one_device(residual, x, weight, vectors, index, coefficient, modes)
    if residual.dim() < 1 or residual.shape[-1] < 1:
        raise ValueError(f"residual has shape {list(residual.shape)}; expected [..., H]")
    hidden = residual.shape[-1]
    if x is not None and x.shape != residual.shape:
        raise ValueError(
            f"x has shape {list(x.shape)}, but the residual has {list(residual.shape)}; "
            "they must be equal"
        )
    if weight is not None and weight.shape != (hidden,):
        raise ValueError(f"weight has shape {list(weight.shape)}; expected [{hidden}]")
    call = SteeringCall(
        _rows("residual", residual),
        None if x is None else _rows("x", x),
        None if weight is None else _rows("weight", weight),
        *_entries(residual.numel() // hidden, hidden, vectors, index, coefficient, modes),
    )
    return call


def _entries(
    tokens: int,
    hidden: int,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    modes: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    if vectors is None or index is None or coefficient is None:
        if not (vectors is index is coefficient is None):
            raise ValueError("vectors, index and coefficient go together: give all three or none")
        if modes is not None:
            raise ValueError("modes are given without vectors")
        return None, None, None, None
    if vectors.dim() != 2 or vectors.shape[1] != hidden:
        raise ValueError(f"vectors has shape {list(vectors.shape)}; expected [S, {hidden}]")
    if index.dim() != 2 or index.dtype != torch.int32 or not index.is_contiguous():
        raise ValueError(f"index must be a contiguous int32 tensor [R, K], not {list(index.shape)}")
    _require_float32("coefficient", coefficient, index.shape)
    settings = index.shape[0]
    if tokens > 0 and (settings == 0 or tokens % settings != 0):
        raise ValueError(f"index has {settings} rows, which do not divide the {tokens} tokens")
    if modes is not None:
        _require_float32("modes", modes, torch.Size((len(vectors), MODE_NUMBERS)))
    return _rows("vectors", vectors), index, coefficient, modes


def _require_float32(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be a contiguous float32 tensor of shape {list(shape)}, "
            f"not {list(tensor.shape)}"
        )


def _rows(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} must be float32, bfloat16 or float16")
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def output_rows(name: str, output: Tensor, residual: Tensor) -> Tensor:
    """Return the rows of an output, which share its memory."""
    if output.shape != residual.shape or output.dtype != residual.dtype:
        raise ValueError(
            f"{name} has shape {list(output.shape)}; expected the residual's shape and dtype, "
            f"{list(residual.shape)}"
        )
    require_one_device(residual, output)
    rows = _rows(name, output)
    if rows.numel() > 0 and rows.data_ptr() != output.data_ptr():
        raise ValueError(f"{name} must have dense, evenly spaced rows; give a contiguous tensor")
    if rows.shape[0] > 1 and rows.stride(0) < rows.shape[1]:
        raise ValueError(f"{name} has rows that overlap, as an expanded tensor has")
    return rows


class _Extent(NamedTuple):
    """Bytes of evenly spaced rows."""

    begin: int
    end: int
    row: int
    stride: int

    @classmethod
    def of(cls, rows: Tensor) -> _Extent:
        count, width = rows.shape[0], rows.shape[1]
        size, begin = rows.element_size(), rows.data_ptr()
        stride = width * size if count == 1 else rows.stride(0) * size
        end = begin + (count - 1) * stride + width * size if rows.numel() > 0 else begin
        return cls(begin, end, width * size, stride)

    def overlaps(self, other: _Extent) -> bool:
        first, second = sorted((self, other))
        if first.end <= second.begin or first.begin == first.end or second.begin == second.end:
            return False
        # A single row fits any stride.
        strides = {e.stride for e in (first, second) if e.begin + e.row != e.end}
        if len(strides) > 1 or 0 in strides:
            return True
        stride = strides.pop() if strides else first.row
        column = (second.begin - first.begin) % stride
        return column < first.row or column + second.row > stride


def require_apart(call: SteeringCall, out: Tensor | None, residual_out: Tensor) -> None:
    """Raise ValueError where an output would be written over what other rows read.

    An output may take the place of `x` or of the residual as a whole, because a row is read before
    it is written.
    """
    outputs = {"residual_out": residual_out} | ({} if out is None else {"out": out})
    for name, output in outputs.items():
        written = _Extent.of(output)
        for given in ("x", "residual"):
            read = getattr(call, given)
            if read is None or _same_memory(output, read):
                continue
            if written.overlaps(_Extent.of(read)):
                raise ValueError(f"{name} overlaps {given}; they may be one tensor or apart")
        for given in ("weight", "vectors", "index", "coefficient", "modes"):
            read = getattr(call, given)
            if read is not None and written.overlaps(_Extent.of(read)):
                raise ValueError(f"{name} overlaps {given}; give it memory of its own")
    if out is not None and _Extent.of(out).overlaps(_Extent.of(residual_out)):
        raise ValueError("out and residual_out overlap; give two tensors")


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride(0) == b.stride(0) and a.dtype == b.dtype
