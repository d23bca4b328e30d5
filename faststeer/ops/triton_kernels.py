"""The steering ops as Triton kernels, for GPUs without a compiled kernel: ROCm, XPU, no nvcc.

A program has one row. The arithmetic is that of `faststeer.ops.reference`: float32, the sum of
vectors in entry order without fused multiply-add (a launch has to set ``enable_fp_fusion=False``),
one rounding of the residual, a norm of the rounded values. Triton reads the annotations of its
functions, so this file must not postpone their evaluation.
"""

import triton
import triton.language as tl


@triton.jit
def _widen(values):
    """Return float32. bfloat16 goes by its bits: the interpreter misreads subnormals."""
    if values.dtype == tl.bfloat16:
        bits = values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        wide = bits.to(tl.float32, bitcast=True)
    else:
        wide = values.to(tl.float32)
    return wide


@triton.jit
def _narrow(values, dtype: tl.constexpr):
    """Round to nearest even. bfloat16 goes by its bits: the interpreter truncates."""
    if dtype == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where(values == values, rounded, 0x7FC0)
        narrow = rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        narrow = values.to(dtype)
    return narrow


@triton.jit
def _load(row, columns, hidden):
    """Return a row's columns in float32; zeros outside."""
    return _widen(tl.load(row + columns, mask=columns < hidden, other=0.0))


@triton.jit
def _store(row, columns, hidden, values):
    tl.store(row + columns, values, mask=columns < hidden)


@triton.jit
def _entry(index, coefficient, at, stored):
    """Return the id, -1 for none, and the coefficient: NaN where no vector has that id."""
    i = tl.load(index + at)
    c = tl.load(coefficient + at)
    return i, tl.where((i >= -1) & (i < stored), c, float("nan"))


@triton.jit
def _vector(vectors, stride, i, stored, columns, hidden):
    """Return columns of vector i in float32; zeros where there is none."""
    known = (i >= 0) & (i < stored)
    row = tl.where(known, i, 0).to(tl.int64)
    return _load(vectors + row * stride, columns, tl.where(known, hidden, 0))


@triton.jit
def _mode(modes, i, stored):
    """Return push, pull and keep of vector i: an addition where there is none."""
    known = (i >= 0) & (i < stored)
    line = modes + 5 * tl.where(known, i, 0).to(tl.int64)
    push = tl.load(line, mask=known, other=1.0)
    pull = tl.load(line + 1, mask=known, other=0.0)
    return push, pull, tl.load(line + 2, mask=known, other=0.0)


@triton.jit
def _bounds(modes, i):
    """Return floor and ceiling of vector i, which exists."""
    line = modes + 5 * i.to(tl.int64)
    return tl.load(line + 3), tl.load(line + 4)


@triton.jit
def _steering_sum(
    vectors, vectors_stride, index, coefficient, modes, first, stored, entries, columns, hidden
):
    """Return the sum of the entries from `first` that have no pull, in their order."""
    total = tl.zeros(columns.shape, tl.float32)
    for k in range(entries):
        i, c = _entry(index, coefficient, first + k, stored)
        added = i != -1
        if modes is not None:
            push, pull, _ = _mode(modes, i, stored)
            c *= push
            added = added & (pull == 0.0)
        term = c * _vector(vectors, vectors_stride, i, stored, columns, hidden)
        total += tl.where(added, term, 0.0)
    return total


@triton.jit
def _project(
    value,
    vectors,
    vectors_stride,
    index,
    coefficient,
    modes,
    first,
    stored,
    entries,
    columns,
    hidden,
):
    """Return the row after its entries with a pull, in their order."""
    for k in range(entries):
        i, c = _entry(index, coefficient, first + k, stored)
        push, pull, _ = _mode(modes, i, stored)
        if pull != 0.0:
            vector = _vector(vectors, vectors_stride, i, stored, columns, hidden)
            floor, ceiling = _bounds(modes, i)
            own = tl.sum(value * vector, 0) - c * push
            held = tl.maximum(tl.minimum(own, ceiling), floor)
            share = tl.where(push == 0.0, c * pull, pull)
            value += share * (held - own) * vector
    return value


@triton.jit
def _keep_norm(value, squares_before, index, modes, first, stored, entries):
    """Return the row rescaled to its norm before steering, where any entry's keep is not 0."""
    kept = 0
    for k in range(entries):
        _, _, keep = _mode(modes, tl.load(index + first + k), stored)
        kept |= (keep != 0.0).to(tl.int32)
    norm = tl.sqrt_rn(tl.sum(value * value, 0))
    factor = tl.div_rn(tl.sqrt_rn(squares_before), norm)
    return tl.where((kept != 0) & (norm > 0.0), value * factor, value)


@triton.jit
def _update(
    x, residual, residual_out, vectors, index, coefficient, modes,
    x_stride, residual_stride, residual_out_stride, vectors_stride,
    row, first, stored, entries, columns, hidden,
):  # fmt: skip
    """Store some columns of the steered residual; return them as the norm sees them, rounded."""
    value = _load(residual + row * residual_stride, columns, hidden)
    if x is not None:
        value += _load(x + row * x_stride, columns, hidden)
    if vectors is not None:
        squares_before = tl.sum(value * value, 0)
        value += _steering_sum(
            vectors, vectors_stride, index, coefficient, modes,
            first, stored, entries, columns, hidden,
        )  # fmt: skip
        if modes is not None:
            value = _project(
                value, vectors, vectors_stride, index, coefficient, modes,
                first, stored, entries, columns, hidden,
            )  # fmt: skip
            value = _keep_norm(value, squares_before, index, modes, first, stored, entries)
    h = _narrow(value, residual_out.dtype.element_ty)
    _store(residual_out + row * residual_out_stride, columns, hidden, h)
    return tl.where(columns < hidden, _widen(h), 0.0)


@triton.jit
def _norm(h, scale, weight, weight_offset, out, columns, hidden):
    """Store some columns of the norm of the rounded residual h in the row at `out`."""
    factor = weight_offset + _load(weight, columns, hidden)
    _store(out, columns, hidden, _narrow(h * scale * factor, out.dtype.element_ty))


@triton.jit(do_not_specialize=["stored", "entries", "tokens_per_setting"])
def steer_rows(
    x, residual, weight, out, residual_out, vectors, index, coefficient, modes,
    x_stride, residual_stride, out_stride, residual_out_stride, vectors_stride,
    hidden, stored, entries, tokens_per_setting, share, eps, weight_offset,
    block: tl.constexpr, one_block: tl.constexpr,
):  # fmt: skip
    """Add, steer and norm one row per program; `share` is 1 / hidden.

    x, the entries, modes, and weight with out may be None. A row of several blocks is read again
    from `residual_out` for its norm, and has no modes.
    """
    row = tl.program_id(0).to(tl.int64)
    first = row // tokens_per_setting * entries
    columns = tl.arange(0, block)
    if one_block:
        h = _update(
            x, residual, residual_out, vectors, index, coefficient, modes,
            x_stride, residual_stride, residual_out_stride, vectors_stride,
            row, first, stored, entries, columns, hidden,
        )  # fmt: skip
        if weight is not None:
            scale = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(h * h, 0) * share + eps))
            _norm(h, scale, weight, weight_offset, out + row * out_stride, columns, hidden)
    else:
        squares = 0.0
        for begin in range(0, hidden, block):
            at = begin + columns
            h = _update(
                x, residual, residual_out, vectors, index, coefficient, None,
                x_stride, residual_stride, residual_out_stride, vectors_stride,
                row, first, stored, entries, at, hidden,
            )  # fmt: skip
            squares += tl.sum(h * h, 0)
        if weight is not None:
            scale = tl.div_rn(1.0, tl.sqrt_rn(squares * share + eps))
            tl.debug_barrier()  # the row may be read by other threads than wrote it
            for begin in range(0, hidden, block):
                at = begin + columns
                h = _load(residual_out + row * residual_out_stride, at, hidden)
                _norm(h, scale, weight, weight_offset, out + row * out_stride, at, hidden)
