"""Calls in place whose entries are named by a number: right, refused in words, and let go of."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_arguments import DTYPES, HIDDEN, spaced
from op_calls import EPS, OUT_LAYOUTS, check
from steering_modes import ADD, CAP, CLAMP, HALVE
from torch import Tensor

from faststeer.ops import reference, registration
from faststeer.ops.entry_tables import EntryTable

BY_TABLE = torch.ops.faststeer.steer_add_rms_norm_by_table


def entries(lines: int, hidden: int, columns: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(-1, 4, (lines, columns), generator=generator, dtype=torch.int32)
    coefficient = torch.randn(lines, columns, generator=generator)
    vectors = torch.randn(4, hidden, generator=generator)
    return [vectors, index, coefficient, torch.tensor([ADD] * 4)]


@given(
    tokens=st.integers(0, 9),
    more=st.integers(0, 5),
    columns=st.integers(1, 11),
    hidden=st.sampled_from(HIDDEN),
    dtype=st.sampled_from(DTYPES),
    weight_dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(OUT_LAYOUTS, OUT_LAYOUTS),
    offset=st.sampled_from((0.0, 1.0)),
    seed=st.integers(0, 2**31),
)
def test_a_call_reads_the_first_lines_and_writes_in_place(
    tokens: int,
    more: int,
    columns: int,
    hidden: int,
    dtype: torch.dtype,
    weight_dtype: torch.dtype,
    layouts: tuple[Any, Any],
    offset: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, residual = (
        spaced(torch.randn(tokens, hidden, generator=generator).to(dtype), layout)
        for layout in layouts
    )
    weight = torch.randn(hidden, generator=generator).to(weight_dtype)
    vectors, index, coefficient, modes = entries(max(tokens + more, 1), hidden, columns, seed)
    call = {
        "x": x.clone(),
        "residual": residual.clone(),
        "weight": weight,
        "eps": EPS,
        "weight_offset": offset,
        "vectors": vectors,
        "index": index[:tokens],
        "coefficient": coefficient[:tokens],
    }
    table = EntryTable(vectors, index, coefficient, modes)
    BY_TABLE(x, residual, weight, EPS, offset, table.number)
    if tokens:
        check(call, x, residual)


@pytest.mark.parametrize("mode", [HALVE, CLAMP, CAP])
def test_modes_and_values_are_those_of_the_moment_of_the_call(mode: list[float]) -> None:
    x, residual, weight = torch.randn(5, 70), torch.randn(5, 70), torch.randn(70)
    own = entries(8, 70)
    table = EntryTable(*own)
    own[3][:] = torch.tensor(mode)
    own[2].mul_(2.0)
    vectors, index, coefficient, modes = own
    wanted = reference.steer_add_rms_norm(
        x, residual, weight, EPS, vectors, index[:5], coefficient[:5], modes, 0.0
    )
    BY_TABLE(x, residual, weight, EPS, 0.0, table.number)
    torch.testing.assert_close(residual, wanted[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x, wanted[0], atol=1e-4, rtol=1e-4)


def test_a_table_of_other_entries_would_give_another_result() -> None:
    x, residual, weight = torch.randn(2, 16), torch.randn(2, 16), torch.ones(16)
    found = []
    for seed in (0, 1):
        table = EntryTable(*entries(2, 16, seed=seed))
        own = residual.clone()
        BY_TABLE(x.clone(), own, weight, EPS, 0.0, table.number)
        found.append(own)
    assert not torch.equal(*found)


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    table = EntryTable(*entries(3, 16))
    x, residual, weight = torch.randn(4, 16), torch.randn(4, 16), torch.ones(16)
    kept = x.clone(), residual.clone()
    for given_x, given_residual, number, words in (
        (x, residual, table.number, r"\[3, 3\], too few lines for 4 tokens"),
        (x, residual, 4711, "there is no table 4711 of entries"),
        (x, residual, -1, "there is no table -1 of entries"),
        (x[:3, :8], residual[:3, :8], table.number, r"expected \[8\]"),
        (x[:2], x[:2], table.number, "out and residual_out overlap"),
        (x[:3], residual[1:3], table.number, "they must be equal"),
        (x[:3].half(), residual[:3], table.number, "out has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            BY_TABLE(given_x, given_residual, weight, EPS, 0.0, number)
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])
    with pytest.raises(ValueError, match="the number of a table of entries is -2"):
        torch.ops.faststeer.set_entry_table(-2, *entries(3, 16))


def test_a_table_that_is_gone_is_refused_and_its_number_free_again() -> None:
    first, second = EntryTable(*entries(3, 16)), EntryTable(*entries(3, 16))
    number = first.number
    assert second.number != number
    del first
    gc.collect()
    call = torch.randn(1, 16), torch.randn(1, 16), torch.ones(16), EPS, 0.0
    with pytest.raises(ValueError, match=f"there is no table {number}"):
        BY_TABLE(*call, number)
    assert EntryTable(*entries(3, 16)).number <= number
    BY_TABLE(*call, second.number)


def test_the_op_passes_torchs_own_checks() -> None:
    table = EntryTable(*entries(3, 16))
    call = torch.randn(3, 16), torch.randn(3, 16), torch.ones(16), EPS, 0.0, table.number
    torch.library.opcheck(BY_TABLE.default, call)


def test_a_compiled_function_calls_it_in_place() -> None:
    table = EntryTable(*entries(3, 16))
    weight = torch.randn(16)

    def step(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        x, residual = x * 2, residual + 1
        BY_TABLE(x, residual, weight, EPS, 0.0, table.number)
        return x + 1, residual

    x, residual = torch.randn(3, 16), torch.randn(3, 16)
    wanted = step(x, residual)
    found = torch.compile(step, fullgraph=True)(x, residual)
    torch.testing.assert_close(found, wanted)


def test_a_device_without_kernels_has_tables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_warned", {("cpu", "")})
    monkeypatch.setattr(registration, "_runs_on_triton", lambda *_: False)
    own = entries(3, 16)
    registration._set_entry_table(7, *own)
    x, residual, weight = torch.randn(2, 16), torch.randn(2, 16), torch.ones(16)
    vectors, index, coefficient, modes = own
    wanted = reference.steer_add_rms_norm(
        x, residual, weight, EPS, vectors, index[:2], coefficient[:2], modes, 1.0
    )
    registration._without_kernel_by_table(x, residual, weight, EPS, 1.0, 7)
    assert torch.equal(x, wanted[0])
    assert torch.equal(residual, wanted[1])
    with pytest.raises(ValueError, match="too few lines for 4 tokens"):
        registration._without_kernel_by_table(torch.ones(4, 16), torch.ones(4, 16), weight, 0, 0, 7)
    registration._drop_entry_table(own[1], 7)
    with pytest.raises(ValueError, match="there is no table 7"):
        registration._without_kernel_by_table(x, residual, weight, EPS, 1.0, 7)


def test_the_dispatcher_reaches_the_fallback() -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in ("steer_add_rms_norm_by_table", "set_entry_table", "drop_entry_table"):
        assert has(f"faststeer::{name}", "CompositeExplicitAutograd")
        assert has(f"faststeer::{name}", "CPU")
