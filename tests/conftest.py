"""Fixtures of all tests, created in each of the two processes of `make test`.

Tests run in parallel and in any order: they write only into `tmp_path`, use no fixed port, and
assert no times. Long compilations go through `built_once`; `figure` prints at the end of the run
from either process.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # set before transformers is imported: no test needs the network
# Set before torch is imported: threads that spin while waiting make all tests ten times slower
# if something else uses the cores (measured: 58 s instead of 6).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from built_wheel import BuiltOnce
from filelock import FileLock
from hub_access import connect, forget_sessions
from hub_stand_in import Hub, serve
from places import SHARED_DATA
from tiny import ByteTokenizer, MakeTiny, make_tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

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
    """Ignore the warning about an untested transformers, which `make test-newest` may run."""
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
    """Return the reference: a model with the weights of `tiny_model` that is never patched."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, make_tiny: MakeTiny) -> Path:
    """Return the folder of a tiny model with a byte tokenizer, as `--model` takes it."""
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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return an empty stand-in of the Hugging Face hub, the only one that this process sees."""
    with serve() as served:
        connect(served, tmp_path / "hub-cache", monkeypatch)
        yield served
    forget_sessions()


@pytest.fixture(scope="session")
def demo() -> loading.Loaded:
    """Return SmolLM2-135M in float32, shared by all tests: leave it unpatched."""
    return loading.load("demo", dtype=torch.float32)


@pytest.fixture(scope="session")
def demo_tokenizer() -> Any:
    """Return the demo's tokenizer, which has a chat template; shared by all tests."""
    return AutoTokenizer.from_pretrained(loading.demo_folder())


@pytest.fixture(scope="session")
def built_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BuiltOnce:
    """Return a function that fills a named folder once, in one worker of pytest for all workers.

    `make test` distributes the tests over two workers, and each creates its session fixtures.
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
    """Return a function that records a measured figure, printed at the end of the run."""
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
