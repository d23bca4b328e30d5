"""The CUDA kernels of steer_add_rms_norm are its specification, to the bit in the residual."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from built_wheel import BuiltOnce
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DTYPES, Emulator, shared_emulator
from steer_norm_calls import EPS, Call, Draw, calls

MULTIPROCESSORS = st.sampled_from((1, 2, 132))


@pytest.fixture(scope="module")
def emulator(built_once: BuiltOnce) -> Emulator:
    return shared_emulator(built_once)


@settings(max_examples=400, deadline=None)
@given(
    call=calls((1, 7, 64, 111, 576), (0, 1, 2, 3, 5, 17), (0, 1, 2, 5, 70)),
    multiprocessors=MULTIPROCESSORS,
    most_blocks=st.sampled_from((2, 2**31 - 1)),
)
def test_kernels_equal_their_specification(
    emulator: Emulator, call: Call, multiprocessors: int, most_blocks: int
) -> None:
    call.run(emulator, multiprocessors=multiprocessors, most_blocks=most_blocks)


@settings(max_examples=60, deadline=None)
@given(calls((4096, 11008), (1, 2, 5), (0, 1, 3)), MULTIPROCESSORS)
def test_kernels_equal_their_specification_in_wide_rows(
    emulator: Emulator, call: Call, multiprocessors: int
) -> None:
    call.run(emulator, multiprocessors=multiprocessors)


NAMES = {torch.float32: "float", torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}
STEERINGS = ("none", "single", "direct", "kept")


@dataclass(frozen=True)
class Packed:
    """A kernel that moves packs, and how to get to it."""

    own: torch.dtype  # the residual's
    x: torch.dtype
    vectors: torch.dtype
    packs: int  # a thread
    steering: str

    def __str__(self) -> str:
        dtypes = ", ".join(NAMES[dtype] for dtype in (self.own, self.x, self.vectors))
        return f"{dtypes}, {self.packs}, (faststeer::Steering){STEERINGS.index(self.steering)}"

    def call(self) -> Call:
        # Two packs a thread from 256 packs a row on, where more rows wait than a multiprocessor
        # holds with one: 4 without vectors, and fewer with some. It holds 32 rows of one warp or 4
        # of eight; where there are more, blocks get several and keep sums: 3 or 6 rows, so that
        # the setting changes within a block.
        make, tokens = Draw(seed=0), 6 if self.steering == "none" else 4
        if self.steering == "kept":
            tokens = 70 if self.packs == 1 else 22
        hidden = 96 if self.packs == 1 else 504 * 16 // self.own.itemsize
        x = make.values(tokens, hidden, dtype=self.x)
        residual, out, h = (make.values(tokens, hidden, dtype=self.own) for _ in range(3))
        call = Call(x, residual, make.values(hidden, dtype=self.own), None, None, None, out, h)
        if self.steering != "none":
            single = self.steering == "single"
            call.vectors = make.values(1 if single else 3, hidden, dtype=self.vectors)
            call.index = torch.tensor([[0], [-1]] if single else [[2, 1], [0, 2]]).int()
            call.coefficient = make.coefficients(call.index)
        return call


PACKED = [
    Packed(own, x, vectors, packs, steering)
    for own in DTYPES
    for x in (DTYPES if own == torch.float32 else (own,))  # autocast adds halves to float32
    for packs in (1, 2)
    for steering in STEERINGS
    for vectors in dict.fromkeys((own,) if steering == "none" else (own, torch.float32))
]


@pytest.mark.parametrize("packed", PACKED, ids=str)
def test_each_packed_kernel_runs_where_it_is_meant_to(emulator: Emulator, packed: Packed) -> None:
    call = packed.call()
    (started,) = call.run(emulator, multiprocessors=1)
    assert f"steer_norm_packed<{packed}>(" in started.kernel
    assert (started.shared_bytes > 0) == (packed.steering == "kept")
    assert (started.blocks < len(call.residual)) == (packed.steering == "kept")


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("reason", ["hidden", "base", "stride", "dtypes", "size"])
def test_what_packs_cannot_move_goes_element_by_element(
    emulator: Emulator, dtype: torch.dtype, reason: str
) -> None:
    make = Draw(seed=1)
    hidden = {"hidden": 33, "size": (2 * 1024 + 1) * 16 // dtype.itemsize}.get(reason, 64)
    layout = {"base": (1, 0), "stride": (0, 1)}.get(reason, (0, 0))
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    x, out, h = (make.values(3, hidden, dtype=dtype) for _ in range(3))
    residual = make.values(3, hidden, dtype=dtype, layout=layout)
    weight = make.values(hidden, dtype=other if reason == "dtypes" else dtype)
    (started,) = Call(x, residual, weight, None, None, None, out, h).run(emulator)
    assert f"steer_norm_general<{NAMES[dtype]}>(" in started.kernel


def test_these_are_all_kernels_that_are_built(emulator: Emulator) -> None:
    built = {
        re.search(r"(?<=steer_norm_)(packed|general)<.*>(?=\()", name)
        for name in emulator.symbols()
        if "{lambda" not in name
    }
    expected = {f"packed<{packed}>" for packed in PACKED}
    expected |= {f"general<{NAMES[dtype]}>" for dtype in DTYPES}
    assert {name[0] for name in built if name is not None} == expected


@pytest.mark.parametrize("hidden", [64, 65])
@pytest.mark.parametrize(("dtype", "lost"), [(torch.bfloat16, 0.9), (torch.float16, 0.12)])
def test_the_norm_reads_the_rounded_residual(
    emulator: Emulator, dtype: torch.dtype, lost: float, hidden: int
) -> None:
    residual, x = (torch.full((1, hidden), value, dtype=dtype) for value in (256.0, lost))
    weight, out, h = torch.ones(hidden, dtype=dtype), torch.empty_like(x), torch.empty_like(x)
    emulator.steer_norm(x, residual, weight, EPS, None, None, None, out, h)
    assert (h == 256).all()
    assert (out == 1).all()  # of 256 and what was lost it would be the next lower value


def test_neighbours_of_a_row_with_an_unknown_id_are_untouched(emulator: Emulator) -> None:
    make = Draw(seed=2)
    for hidden in (64, 65):
        index = torch.tensor([[0, -1], [1, 7], [-2, 0], [1, 1]], dtype=torch.int32)
        values = [make.values(4, hidden, dtype=torch.bfloat16) for _ in range(4)]
        weight = make.values(hidden, dtype=torch.bfloat16)
        vectors = make.values(2, hidden, dtype=torch.bfloat16)
        entries = (vectors, index, torch.ones(4, 2))
        emulator.steer_norm(*values[:2], weight, EPS, *entries, *values[2:])
        for result in values[2:]:
            assert result.isnan().all(1).tolist() == [False, True, True, False]
            assert not result[[0, 3]].isnan().any()


def test_without_stored_vectors_there_is_nothing_to_add(emulator: Emulator) -> None:
    make = Draw(seed=3)
    x, residual, h = (make.values(4, 64, dtype=torch.float32) for _ in range(3))
    index = torch.full((4, 1), -1, dtype=torch.int32)
    call = Call(x, residual, None, torch.empty(0, 64), index, torch.ones(4, 1), None, h)
    (started,) = call.run(emulator)
    assert "(faststeer::Steering)0>(" in started.kernel
