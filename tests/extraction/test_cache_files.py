"""The files of cached activations: limited, safe under two processes, and damaged ones ignored."""

from __future__ import annotations

import multiprocessing
import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ByteTokenizer, MakeTiny, make_tiny_model
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector
from faststeer.utils.limited_folder import LimitedFolder

PAIRS = [(f"is it {n}? yes{'!' * (n % 5)}", f"is it {n}? no") for n in range(21)]
NAMES = [f"{number:064x}.safetensors" for number in range(8)]


def extract(model: Any, cache: Any = False, pairs: Any = PAIRS, **options: Any) -> SteeringVector:
    return faststeer.extract(
        model, ByteTokenizer(), pairs, cache=cache, progress=False, batch_size=8, **options
    )


def equal(one: SteeringVector, other: SteeringVector) -> bool:
    return all(torch.equal(one.directions[n], other.directions[n]) for n in other.layers)


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.iterdir()}


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content.clear()
    elif how == "one bit of an activation":
        content[-64 * 4] ^= 1
    elif how == "one letter of the header":
        place = content.index(b"crc32")
        content[place] ^= 1
    elif how == "another file":
        content = bytearray(random.Random(0).randbytes(len(content)))
    file.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "empty",
        "one bit of an activation",
        "one letter of the header",
        "another file",
        "another entry",
    ],
)
@pytest.mark.filterwarnings("ignore:confound")
def test_a_damaged_file_is_named_ignored_and_written_again(
    tiny_model: LlamaForCausalLM, tmp_path: Path, how: str
) -> None:
    uncached = extract(tiny_model, tmp_path)
    files = sorted(tmp_path.iterdir())
    intact = files[0].read_bytes()
    if how == "another entry":
        files[0].write_bytes(files[1].read_bytes())
    damage(files[0], how)
    assert files[0].read_bytes() != intact
    with pytest.warns(faststeer.FaststeerWarning, match=f"1 files .* damaged, first {files[0]}"):
        assert equal(extract(tiny_model, tmp_path), uncached)
    assert files[0].read_bytes() == intact
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert equal(extract(tiny_model, tmp_path), uncached)
    assert not any("damaged" in str(one.message) for one in caught)


def test_the_least_recently_used_files_are_removed_above_the_limit(tmp_path: Path) -> None:
    folder = LimitedFolder(tmp_path, 1000)
    for number, name in enumerate(NAMES[:4]):
        assert folder.write(name, bytes(240))
        os.utime(tmp_path / name, (number, number))
    assert LimitedFolder(tmp_path, 1000).find(NAMES[0]) is not None  # now the most recent
    (tmp_path / "notes.txt").write_bytes(bytes(5000))  # not a file of the cache
    later = LimitedFolder(tmp_path, 1000)
    assert later.write(NAMES[4], bytes(240))
    assert set(sizes(tmp_path)) == {NAMES[0], NAMES[2], NAMES[3], NAMES[4], "notes.txt"}
    for name in NAMES[5:7]:
        assert later.write(name, bytes(240))
    assert set(sizes(tmp_path)) == {NAMES[0], *NAMES[4:7], "notes.txt"}


def test_files_in_use_are_not_removed_for_further_ones(tmp_path: Path) -> None:
    folder = LimitedFolder(tmp_path, 1000)
    assert [folder.write(name, bytes(300)) for name in NAMES[:4]] == [True, True, True, False]
    assert not folder.write(NAMES[5], bytes(1001))
    assert set(sizes(tmp_path)) == set(NAMES[:3])
    assert folder.write(NAMES[0], bytes(400))  # in place of one of them


def test_an_unfinished_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    old, new = (tmp_path / f".{NAMES[0]}.{which}.part" for which in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    LimitedFolder(tmp_path, 1000).write(NAMES[1], b"content")
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.filterwarnings("ignore:confound")
def test_what_exceeds_the_limit_is_named_and_the_first_batches_are_kept(
    tiny_model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncached = extract(tiny_model, tmp_path / "all")
    batches = sizes(tmp_path / "all")
    limit = sum(batches.values()) - 1
    monkeypatch.setenv("FASTSTEER_CACHE_LIMIT", str(limit / 2**30))
    for _ in range(2):
        with pytest.warns(faststeer.FaststeerWarning, match="of 1 batches were not cached"):
            assert equal(extract(tiny_model, tmp_path / "some"), uncached)
        assert len(sizes(tmp_path / "some")) == len(batches) - 1
        assert sum(sizes(tmp_path / "some").values()) <= limit


@pytest.mark.parametrize("limit", ["", "much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(
    tiny_model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("FASTSTEER_CACHE_LIMIT", limit)
    with pytest.raises(ValueError, match=f"LIMIT is {limit!r}; expected a number of GiB above 0"):
        extract(tiny_model, tmp_path)


@pytest.mark.filterwarnings("ignore:confound")
def test_a_full_disk_is_named_and_the_vector_is_made(
    tiny_model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    uncached = extract(tiny_model)
    monkeypatch.setattr("faststeer.utils.limited_folder.write_whole", full)
    with pytest.warns(faststeer.FaststeerWarning, match="could not be cached: .*No space left"):
        assert equal(extract(tiny_model, tmp_path), uncached)


def _read_often(folder: str, start: Any, results: Any) -> None:
    torch.set_num_threads(2)  # as in tests: the number changes bits, and is part of the key
    model = make_tiny_model(layers=2)
    start.wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(6):
            vector = extract(model, folder, layers=[number % 2])
        vector = extract(model, folder)
    damaged = [str(one.message) for one in caught if "cache" in str(one.message)]
    results.put(({layer: d.tolist() for layer, d in vector.directions.items()}, damaged))


@pytest.mark.slow
def test_two_processes_that_write_the_same_files_at_once_get_the_same_vector(
    make_tiny: MakeTiny, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_read_often, args=(str(tmp_path), start, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    uncached = extract(make_tiny(layers=2))
    expected = {layer: direction.tolist() for layer, direction in uncached.directions.items()}
    assert found == [(expected, [])] * 2
    assert equal(extract(make_tiny(layers=2), tmp_path), uncached)
    assert all(name.endswith(".safetensors") for name in sizes(tmp_path))
