"""Fixtures of all tests, made in each of the two processes that `make test` has.

Tests run beside each other and in any order: they write into `tmp_path` alone, take no fixed port,
and judge no time. What takes long to compile goes through `built_once`; `figure` reaches the end of
the run from either process.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test needs the network
# Before torch is imported: threads that spin while they wait make all tests ten times slower
# where something else uses the cores (measured: 58 s became 6).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from built_wheel import BuiltOnce
from filelock import FileLock
from places import SHARED_DATA
from tiny import ByteTokenizer, MakeTiny, make_tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from faststeer.models import loading, transformers_release

PROSE = SHARED_DATA / "text"


@pytest.fixture(autouse=True, scope="session")
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def known_release() -> None:
    """`make test-newest` may run an untested transformers: its warning belongs to no test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers_release.check_transformers()


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_tiny() -> MakeTiny:
    return make_tiny_model


@pytest.fixture
def tiny_model(make_tiny: MakeTiny) -> PreTrainedModel:
    return make_tiny()


@pytest.fixture(scope="session")
def plain(make_tiny: MakeTiny) -> PreTrainedModel:
    """The weights of `tiny_model`: the reference, never patched."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, make_tiny: MakeTiny) -> Path:
    """A tiny model with a tokenizer of bytes, as `--model` takes it."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny().save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def demo() -> loading.Loaded:
    """SmolLM2-135M in float32, shared by all tests: leave it unpatched."""
    return loading.load("demo", dtype=torch.float32)


@pytest.fixture(scope="session")
def built_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BuiltOnce:
    """The folder of a name, which a function has filled: in one worker of pytest for all of them.

    `make test` shares the tests out to two workers, and fixtures of the session are made in each.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def folder(name: str, build: Callable[[Path], None]) -> Path:
        place = shared / name
        with FileLock(f"{place}.lock"):
            if not place.exists():
                fresh = tmp_path_factory.mktemp(name)
                build(fresh)
                fresh.rename(place)
        return place

    return folder


@pytest.fixture(scope="session")
def prose() -> list[str]:
    files = [PROSE / f"wikipedia_{part}.jsonl" for part in ("test", "train")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"the texts are not there: no wikipedia_{{test,train}}.jsonl in {PROSE}")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tells a measured figure; all of them are printed at the end of the run."""
    return lambda line: request.node.user_properties.append(("figure", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    figures = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "figure" and report.when == "call"
    ]
    if figures:
        terminalreporter.section("measured figures")
        for line in figures:
            terminalreporter.write_line(line)
