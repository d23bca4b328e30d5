"""faststeer.Moments: the same statistics in any order, in any number of processes, in pieces."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from moments_state import State, check, exact, random_groups, random_rows
from safetensors.torch import save_file
from torch import Tensor

import faststeer
from faststeer import Moments

GROUPS, HIDDEN = 3, 40
# Batches whose groups differ in mean; some lack a group.
BATCHES = [
    (random_rows(rows, HIDDEN, torch.bfloat16, seed, mean=seed - 3.0), random_groups(rows, g, seed))
    for seed, (rows, g) in enumerate([(5, 3), (64, 2), (1, 3), (700, 3), (33, 1), (0, 3), (48, 3)])
]
ALL = exact(torch.cat([x for x, _ in BATCHES]), torch.cat([g for _, g in BATCHES]), GROUPS)


def moments_of(batches: list[tuple[Tensor, Tensor]]) -> Moments:
    moments = Moments(HIDDEN, GROUPS)
    for x, group in batches:
        moments.update(x, group)
    return moments


def state(moments: Moments) -> State:
    return State(**moments.state_dict())


def require_float64_equal(found: Moments, expected: Moments) -> None:
    assert torch.equal(found.count, expected.count)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(found.variance, expected.variance, rtol=1e-13, atol=0)


def test_moments_are_those_of_all_rows_in_float64() -> None:
    moments = moments_of(BATCHES)
    check(state(moments), ALL, roundings=len(BATCHES))
    torch.testing.assert_close(moments.variance, ALL.m2 / ALL.count[:, None], rtol=1e-6, atol=0)


def test_the_order_of_batches_changes_nothing_beyond_float64_rounding() -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(BATCHES, len(BATCHES))
        require_float64_equal(moments_of(shuffled), moments_of(BATCHES))


@pytest.mark.parametrize("cut", range(len(BATCHES) + 1))
def test_moments_of_two_parts_merge_into_those_of_the_whole(cut: int) -> None:
    first, second = moments_of(BATCHES[:cut]), moments_of(BATCHES[cut:])
    before = state(second).mean.clone()
    first.merge(second)
    require_float64_equal(first, moments_of(BATCHES))
    assert torch.equal(second.mean, before)


def test_a_file_contains_everything_needed_to_resume(tmp_path: Path) -> None:
    moments_of(BATCHES[:3]).save(tmp_path / "part.safetensors")
    resumed = Moments.load(tmp_path / "part.safetensors")
    for x, group in BATCHES[3:]:
        resumed.update(x, group)
    for found, expected in zip(state(resumed), state(moments_of(BATCHES)), strict=True):
        assert torch.equal(found, expected)


def test_updates_accept_inference_mode_activations_and_record_no_gradients() -> None:
    with torch.inference_mode():
        moments = Moments(4)
        moments.update(torch.ones(2, 4))
        moments.merge(moments)
    moments.update(torch.full((2, 4), 4.0, requires_grad=True))
    assert moments.count.tolist() == [6]
    assert moments.mean.tolist() == [[2.0] * 4]
    assert moments.variance.tolist() == [[2.0] * 4]
    assert not moments.mean.requires_grad


def test_a_group_without_rows_has_no_variance() -> None:
    moments = Moments(2, groups=2)
    moments.update(torch.ones(1, 2), torch.ones(1, dtype=torch.int32))
    assert moments.variance.isnan().tolist() == [[True, True], [False, False]]
    assert repr(moments) == "Moments(hidden size 2, rows by group: 0, 1)"


def _reduce(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    moments = moments_of(BATCHES[rank::world])
    moments.all_reduce()
    moments.save(f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def test_three_processes_give_the_bits_of_a_merge_in_rank_order(tmp_path: Path) -> None:
    world = 3
    torch.multiprocessing.start_processes(
        _reduce, (world, str(tmp_path)), world, start_method="fork"
    )
    expected = Moments(HIDDEN, GROUPS)
    for rank in range(world):
        expected.merge(moments_of(BATCHES[rank::world]))
    require_float64_equal(expected, moments_of(BATCHES))
    for rank in range(world):
        found = state(Moments.load(tmp_path / f"{rank}.safetensors"))
        for tensor, wanted in zip(found, state(expected), strict=True):
            assert torch.equal(tensor, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "got .'count', 'm2'.; expected the tensors count, mean and m2"),
        ({"mean": torch.zeros(2, 5)}, "mean is torch.float32 .2, 5.; expected torch.float64 .2, 4"),
        ({"count": torch.tensor([-1, 0])}, "a count or a variance below 0"),
        ({"m2": torch.full((2, 4), torch.nan).double()}, "a count or a variance below 0"),
        ({"extra": torch.zeros(1)}, "expected the tensors count, mean and m2"),
    ],
)
def test_an_invalid_state_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    moments = Moments(4, groups=2)
    given = {k: v for k, v in (moments.state_dict() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        moments.load_state_dict(given)
    assert moments.count.tolist() == [0, 0]


def test_a_file_of_other_content_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors: no such file"):
        Moments.load(file)
    faststeer.SteeringVector("v", {0: torch.ones(4)}).save(file)
    with pytest.raises(ValueError, match=r"a\.safetensors: not a .*'format' is 'faststeer'"):
        Moments.load(file)
    header = {"format": "faststeer moments", "format_version": "2"}
    save_file({"mean": torch.zeros(1, 4)}, file, header)
    with pytest.raises(ValueError, match="format version '2' is unknown"):
        Moments.load(file)
    save_file({"mean": torch.zeros(4)}, file, header | {"format_version": "1"})
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \[G, H\]"):
        Moments.load(file)
    Moments(4).save(file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.safetensors: not a faststeer\.Moments file"):
        Moments.load(file)


def test_moments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        Moments(0)
    with pytest.raises(ValueError, match="for 1 groups of 4 features"):
        Moments(4).merge(Moments(5))
    with pytest.raises(ValueError, match="group"):
        Moments(4, groups=2).update(torch.ones(3, 4))
