"""The CUDA kernels of accumulate_moments agree with float64 to seven digits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DTYPES, Emulator, Started
from layouts import ALIGNED, LAYOUTS, laid_out, storage_of
from torch import Tensor

NAMES = {torch.float32: "float", torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}
RELATIVE_ERROR = 1e-6


@dataclass
class Statistics:
    """What the kernels add to; a group that has no rows yet holds a mark in `mean` and `m2`."""

    count: Tensor  # [G] int64
    mean: Tensor  # [G, H] float64
    m2: Tensor

    @classmethod
    def empty(cls, groups: int, hidden: int) -> Statistics:
        # Not zero: what is there without rows must not matter, and must stay.
        mark = [torch.full((groups, hidden), value, dtype=torch.float64) for value in (77.0, 88.0)]
        return cls(torch.zeros(groups, dtype=torch.int64), *mark)

    def add(self, emulator: Emulator, x: Tensor, group: Tensor | None) -> list[Started]:
        return emulator.moments(x, group, self.count, self.mean, self.m2)

    def check(self, group: int, rows: Tensor) -> None:
        """Compare with two passes in float64 over all rows that the group got."""
        assert self.count[group] == len(rows)
        if len(rows) == 0:
            assert (self.mean[group] == 77.0).all()
            assert (self.m2[group] == 88.0).all()
            return
        rows = rows.double()
        mean = rows.mean(0)
        m2 = (rows - mean).square().sum(0)
        deviation = (m2 / len(rows)).sqrt()
        # A mean that happens to lie near zero is as exact as the values around it.
        scale = torch.maximum(mean.abs(), deviation)
        assert ((self.mean[group] - mean).abs() <= RELATIVE_ERROR * scale).all()
        assert ((self.m2[group] - m2).abs() <= RELATIVE_ERROR * m2).all()


def random_rows(generator: torch.Generator, tokens: int, hidden: int) -> Tensor:
    """Columns far from zero, wide ones and narrow ones."""
    scale = 10.0 ** torch.randint(-2, 3, (hidden,), generator=generator)
    shift = torch.randint(-30, 31, (hidden,), generator=generator)
    return scale * (torch.randn(tokens, hidden, generator=generator) + shift)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_kernels_agree_with_float64(emulator: Emulator, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    hidden = data.draw(st.sampled_from((1, 7, 64, 111, 264)))
    groups = data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from(DTYPES))
    statistics = Statistics.empty(groups, hidden)
    rows: list[list[Tensor]] = [[] for _ in range(groups)]
    for _ in range(data.draw(st.integers(1, 3))):
        tokens = data.draw(st.one_of(st.integers(0, 40), st.integers(0, 400), st.integers(1, 2500)))
        values = random_rows(generator, tokens, hidden).to(dtype)
        group = torch.zeros(tokens, dtype=torch.int32)
        if data.draw(st.booleans()):  # -1, and ids of no group, are skipped
            group = torch.randint(-2, groups + 2, (tokens,), generator=generator).int()
        x = laid_out(values, data.draw(st.sampled_from(LAYOUTS)))
        before = storage_of(x).clone(), group.clone()
        given_group = None if groups == 1 and (group == 0).all() else group
        statistics.add(emulator, x, given_group)
        assert torch.equal(storage_of(x), before[0])
        assert torch.equal(group, before[1])
        for g in range(groups):
            rows[g].append(values[group == g])
    for g in range(groups):
        statistics.check(g, torch.cat(rows[g]))


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 31, 33, 1000, 2500])
def test_digits_survive_a_large_mean_and_an_outlier(emulator: Emulator, tokens: int) -> None:
    x = torch.randn(tokens, 3) + 1e6
    x[0, 1] = -1e6  # in the first row, which the base is near
    x[:, 2] = torch.where(torch.arange(tokens) % 2 == 0, 1e6, 1e6 + 0.0625)
    statistics = Statistics.empty(1, 3)
    statistics.add(emulator, x, None)
    statistics.check(0, x)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 100, 2500])
def test_a_constant_column_has_no_variance(emulator: Emulator, tokens: int) -> None:
    constants = torch.cat([torch.tensor([0.0, 0.1, 1e6, 1e-30]), 100 * torch.randn(60)])
    statistics = Statistics.empty(1, 64)
    statistics.add(emulator, constants.expand(tokens, 64).contiguous(), None)
    assert torch.equal(statistics.mean[0], constants.double())
    assert torch.equal(statistics.m2[0], torch.zeros(64).double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_longest_split_counts_every_row(emulator: Emulator, dtype: torch.dtype) -> None:
    tokens = 32 * 1024 + 5  # splits of 1,024 rows, and a short one
    x = torch.randn(tokens, 2).to(dtype)
    group = (torch.arange(tokens) % 3 - 1).int()
    group[:1024] = 0  # one split of one group alone
    statistics = Statistics.empty(2, 2)
    statistics.add(emulator, x, group)
    for g in range(2):
        statistics.check(g, x[group == g])


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_packs_and_single_elements_give_the_same_bits(
    emulator: Emulator, dtype: torch.dtype
) -> None:
    values = torch.randn(300, 520).to(dtype)
    group = torch.randint(-1, 2, (300,), dtype=torch.int32)
    results = []
    for layouts, packed in ((ALIGNED, "true"), (((1, 0), (0, 1)), "false")):
        for layout in layouts:
            statistics = Statistics.empty(2, 520)
            started = statistics.add(emulator, laid_out(values, layout), group)
            assert f"moments_of_splits<{NAMES[dtype]}, {packed}>(" in started[0].kernel
            assert "merge_moments(" in started[1].kernel
            results.append(statistics)
    for result in results[1:]:
        assert torch.equal(result.count, results[0].count)
        assert torch.equal(result.mean, results[0].mean)
        assert torch.equal(result.m2, results[0].m2)


def test_a_group_without_rows_stays_as_it_is(emulator: Emulator) -> None:
    x = torch.randn(50, 9)
    statistics = Statistics.empty(3, 9)
    statistics.add(emulator, x, torch.full((50,), 1, dtype=torch.int32))
    after_one = [t.clone() for t in (statistics.count, statistics.mean, statistics.m2)]
    statistics.add(emulator, x, torch.full((50,), -1, dtype=torch.int32))
    for old, new in zip(after_one, (statistics.count, statistics.mean, statistics.m2), strict=True):
        assert torch.equal(old, new)
    for g, rows in enumerate((x[:0], x, x[:0])):
        statistics.check(g, rows)
