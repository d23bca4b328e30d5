"""The CUDA kernels of rows with modes are their specification, as exactly as float32 makes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from built_wheel import BuiltOnce
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DTYPES, Emulator, Fault, shared_emulator
from layouts import laid_out
from steer_norm_calls import EPS, Call, Draw, calls_with_modes, same_bits
from steering_modes import ABLATE, ADD, CLAMP, KEEP, KEEP_CLAMP, unit
from torch import Tensor

from faststeer.ops import reference

NAMES = {torch.float32: "float", torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}


@pytest.fixture(scope="module")
def emulator(built_once: BuiltOnce) -> Emulator:
    return shared_emulator(built_once)


@settings(max_examples=120, deadline=None)
@given(
    call=calls_with_modes((1, 7, 64, 111, 576), (1, 2, 3, 5, 12), (0, 1, 2, 5, 70)),
    multiprocessors=st.sampled_from((1, 132)),
    most_blocks=st.sampled_from((2, 2**31 - 1)),
)
def test_kernels_are_as_exact_as_float32_makes_them(
    emulator: Emulator, call: Call, multiprocessors: int, most_blocks: int
) -> None:
    started = call.run(emulator, multiprocessors=multiprocessors, most_blocks=most_blocks)
    with_entries = call.index.numel() > 0
    assert all(("steer_norm_modes" in one.kernel) == with_entries for one in started)


@settings(max_examples=30, deadline=None)
@given(calls_with_modes((4096, 11008), (1, 2), (1, 3)), st.sampled_from((1, 132)))
def test_kernels_are_as_exact_in_wide_rows(
    emulator: Emulator, call: Call, multiprocessors: int
) -> None:
    call.run(emulator, multiprocessors=multiprocessors)


@dataclass(frozen=True)
class Packed:
    """A kernel that moves packs, and how to get to it."""

    own: torch.dtype  # the residual's
    x: torch.dtype
    vectors: torch.dtype
    packs: int  # a thread

    def __str__(self) -> str:
        dtypes = ", ".join(NAMES[dtype] for dtype in (self.own, self.x, self.vectors))
        return f"modes<{dtypes}, {self.packs}>"

    def call(self) -> Call:
        """More rows than fit at once, of 256 packs and more where a thread is to have two."""
        make, tokens = Draw(seed=0), 6
        hidden = 96 if self.packs == 1 else 264 * 16 // self.own.itemsize
        x = make.values(tokens, hidden, dtype=self.x)
        residual, out, h = (make.values(tokens, hidden, dtype=self.own) for _ in range(3))
        vectors = unit(5, hidden, generator=make.generator).to(self.vectors)
        index = torch.tensor([[2, 1, -1, 0], [4, 3, 2, 0]], dtype=torch.int32)
        modes = torch.tensor([ADD, ABLATE, CLAMP, KEEP, KEEP_CLAMP])
        weight, coefficient = make.values(hidden, dtype=self.own), make.coefficients(index).abs()
        return Call(x, residual, weight, vectors, index, coefficient, out, h, modes)


PACKED = [
    Packed(own, x, vectors, packs)
    for own in DTYPES
    for x in (DTYPES if own == torch.float32 else (own,))  # autocast adds halves to float32
    for packs in (1, 2)
    for vectors in dict.fromkeys((own, torch.float32))
]


@pytest.mark.parametrize("packed", PACKED, ids=str)
def test_each_packed_kernel_runs_where_it_is_meant_to(emulator: Emulator, packed: Packed) -> None:
    (started,) = packed.call().run(emulator, multiprocessors=1)
    assert f"steer_norm_{packed}(" in started.kernel
    assert started.shared_bytes == 0


def test_these_are_all_kernels_of_modes_that_are_built(emulator: Emulator) -> None:
    kernel = r"(?<=steer_norm_)modes\w*<.*>(?=\()"
    built = {re.search(kernel, name) for name in emulator.symbols()}
    expected = {*map(str, PACKED), *(f"modes_general<{NAMES[dtype]}>" for dtype in DTYPES)}
    assert {name[0] for name in built if name is not None} == expected


def residual_of(emulator: Emulator, call: Call, **launch: int) -> Tensor:
    operands = {**vars(call), "weight": None, "out": None}
    operands["residual_out"] = laid_out(torch.full_like(call.residual, torch.nan), (0, 0))
    emulator.steer_norm(eps=EPS, **operands, **launch)
    return operands["residual_out"]


def random_call(dtype: torch.dtype, hidden: int, entries: int, *modes: tuple) -> Call:
    """Three settings of two rows each, of vectors that are as long as rows are."""
    make = Draw(seed=1)
    residual, x, out, h = (make.values(6, hidden, dtype=dtype) for _ in range(4))
    vectors, weight = (make.values(*s, hidden, dtype=torch.float32) for s in ((len(modes),), ()))
    index = make.ids(3, entries, len(modes))
    weight = weight.to(dtype)
    coefficient = make.coefficients(index)
    return Call(x, residual, weight, vectors, index, coefficient, out, h, torch.tensor(modes))


@pytest.mark.parametrize("hidden", [64, 65])
@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_modes_that_only_add_are_the_bits_of_no_modes(
    emulator: Emulator, dtype: torch.dtype, hidden: int
) -> None:
    for entries in (1, 5, 40):
        call = random_call(dtype, hidden, entries, ADD, ADD, ADD)
        h = residual_of(emulator, call)
        entries_of_call = call.vectors, call.index, call.coefficient
        assert same_bits(h, reference.steer_add(call.x, call.residual, *entries_of_call))


@pytest.mark.parametrize("hidden", [64, 65])
@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_a_kept_norm_changes_no_bit_of_what_is_not_steered(
    emulator: Emulator, dtype: torch.dtype, hidden: int
) -> None:
    call = random_call(dtype, hidden, 3, KEEP, KEEP_CLAMP)
    call.coefficient.zero_()
    call.index[2] = -1
    unsteered = reference.steer_add(call.x, call.residual)
    assert torch.equal(residual_of(emulator, call), unsteered)


@pytest.mark.parametrize("hidden", [64, 65])
def test_a_row_of_zeros_has_no_norm_to_keep(emulator: Emulator, hidden: int) -> None:
    call = random_call(torch.float32, hidden, 1, KEEP)
    call.x, call.residual = None, torch.zeros(6, hidden)
    assert torch.equal(residual_of(emulator, call), call.residual)


# Entry 33 and later come from a second round of the lanes, 65 and later from a third.
@pytest.mark.parametrize("hidden", [64, 65])
def test_entries_beyond_a_warps_lanes_take_their_turn_in_order(
    emulator: Emulator, hidden: int
) -> None:
    a, b = unit(2, hidden, generator=Draw(seed=2).generator)
    index = torch.full((1, 70), -1, dtype=torch.int32)
    index[0, 31], index[0, 69] = 0, 1
    modes = torch.tensor([CLAMP, CLAMP])
    call = random_call(torch.float32, hidden, 1, CLAMP)
    call.vectors, call.modes = torch.stack([a, b]), modes
    call.index, call.coefficient = index, torch.ones(1, 70)
    h = residual_of(emulator, call)
    torch.testing.assert_close(h @ b, torch.full((6,), 2.5))
    index[0, 31], index[0, 69] = 1, 0
    torch.testing.assert_close(residual_of(emulator, call) @ a, torch.full((6,), 2.5))
    index[0, 31], index[0, 69] = -1, 1
    modes[1] = torch.tensor(KEEP)
    kept = residual_of(emulator, call)
    torch.testing.assert_close(kept.norm(dim=1), (call.x + call.residual).norm(dim=1))


@pytest.mark.parametrize("hidden", [64, 65])
def test_neighbours_of_a_row_with_an_unknown_id_are_untouched(
    emulator: Emulator, hidden: int
) -> None:
    for modes in ((ADD, ADD), (ABLATE, CLAMP), (KEEP, KEEP)):
        call = random_call(torch.bfloat16, hidden, 2, *modes)
        call.index.copy_(torch.tensor([[0, -1], [1, 7], [-2, 0]]))
        call.coefficient.fill_(1)
        h = residual_of(emulator, call)
        assert h.isnan().all(1).tolist() == [False, False, True, True, True, True]
        assert not h[:2].isnan().any()


@pytest.mark.parametrize("offset", [0, 1])
def test_rows_that_are_not_packed_need_shared_memory_and_say_so_where_there_is_too_little(
    emulator: Emulator, offset: int
) -> None:
    """99 KiB without those of the block's sums hold 25,280 floats."""
    call = random_call(torch.float32, 25_280 + offset, 1, ABLATE)
    call.residual = call.residual[:1]
    call.x, call.index, call.coefficient = None, torch.zeros_like(call.index[:1]), torch.ones(1, 1)
    call.vectors /= call.vectors.norm()
    if offset > 0:
        with pytest.raises(Fault, match=r"rows of 25281 elements are too long .* takes 25280"):
            residual_of(emulator, call)
    else:
        h = residual_of(emulator, call)
        assert float((h @ call.vectors.T).abs().max()) < 1e-4


# Rows of several warps, so that each barrier has something to keep apart.
@pytest.mark.parametrize(("kernel", "hidden"), [("modes", 512), ("modes_general", 111)])
@pytest.mark.parametrize(
    ("modes", "barriers"),
    [((ADD,), 1), ((KEEP,), 3), ((ABLATE, CLAMP), 3), ((KEEP_CLAMP, ADD, CLAMP), 5)],
)
def test_no_barrier_can_be_left_out(
    emulator: Emulator, kernel: str, hidden: int, modes: tuple, barriers: int
) -> None:
    call = random_call(torch.float32, hidden, 1, *modes)
    call.vectors /= call.vectors.norm(dim=1, keepdim=True)
    call.index = torch.arange(len(modes), dtype=torch.int32)[None]
    call.coefficient = torch.ones(1, len(modes))
    (started,) = call.run(emulator, dropped_barrier=barriers)  # there is none of this number
    assert f"steer_norm_{kernel}<" in started.kernel
    for dropped in range(barriers):
        # The orders differ, or what a sum read too early has spoilt the row in both.
        with pytest.raises((Fault, AssertionError)):
            call.run(emulator, dropped_barrier=dropped)
