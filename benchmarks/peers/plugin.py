"""pytest plugin of `make peers`: runs another project's tests with or without faststeer installed.

Loaded with ``-p plugin``, before the tests import transformers. Every test starts from the same
seed, so that runs with and without faststeer differ in nothing else.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import PreTrainedModel

QUOTES = [
    "Be yourself; everyone else is already taken.",
    "So many books, so little time.",
    "A room without books is like a body without a soul.",
    "You only live once, but if you do it right, once is enough.",
] * 8


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faststeer-install", action="store_true", help="call faststeer.install()")
    parser.addoption("--outcomes", type=Path, required=True, help="JSON lines, one per test")
    parser.addoption("--share", type=int, default=1, help="run one test in this many")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Outcomes(config.getoption("outcomes")))
    if config.getoption("faststeer_install"):
        import faststeer

        faststeer.install()
        _count_fused()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep PEFT's helpers offline; with --share, keep a fixed share of the tests."""
    helpers: Any = sys.modules.get("tests.testing_utils")
    if hasattr(helpers, "_HUB_MODEL_ACCESSES"):  # PEFT fetches on first use
        helpers._HUB_MODEL_ACCESSES = _AllCached()
        helpers.load_dataset = _local_dataset
    share = config.getoption("share")
    config.hook.pytest_deselected(items=[item for n, item in enumerate(items) if n % share])
    items[:] = items[::share]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    fused.clear()


# Decoders that faststeer fused during the current test, by class.
fused: Counter[str] = Counter()


def _count_fused() -> None:
    from faststeer.models.patch_mark import MARK

    stock = PreTrainedModel.post_init

    def post_init(model: Any) -> None:
        stock(model)
        if MARK in model.__dict__:
            fused[type(model).__name__] += 1

    PreTrainedModel.post_init = post_init


class _Outcomes:
    """Writer of one line per finished test: id, outcome, reason and the decoders fused in it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")
        self.outcome = self.reason = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self.outcome, self.reason = "passed", ""
        outcome = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.failed and report.when != "call":
            outcome = "error"
        if outcome != "passed":
            self.outcome = outcome
            lines = str(report.longrepr).strip().splitlines()
            self.reason = lines[-1] if lines else ""
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                self.reason = crash.message[:500] if crash else self.reason
        if report.when == "teardown":
            line = {"id": report.nodeid, "outcome": self.outcome, "reason": self.reason}
            self.file.write(json.dumps(line | {"fused": dict(fused)}) + "\n")
            self.file.flush()


class _AllCached(dict[str, int]):
    """Replacement for PEFT's record of fetched models that contains every model."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> int:
        return 0


def _local_dataset(name: str, *args: Any, **kwargs: Any) -> Any:
    import datasets

    if name != "ybelkada/english_quotes_copy":
        raise ConnectionError(f"{name} is not available offline")
    return datasets.DatasetDict(train=datasets.Dataset.from_dict({"quote": QUOTES}))
