"""`make peers` detects changes that faststeer causes in other code, on a made-up project."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from places import BENCHMARKS

FOLDER = BENCHMARKS / "peers"
TESTS = """
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

NAME = "trl-internal-testing/tiny-random-LlamaForCausalLM"

def test_a_model_generates():
    tokens = AutoTokenizer.from_pretrained(NAME)("abc", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(NAME)
    assert model.generate(**tokens, max_new_tokens=3, min_new_tokens=3).shape == (1, 6)

def test_the_layers_class_is_the_stock_one():
    layer = AutoModelForCausalLM.from_pretrained(NAME).model.layers[0]
    assert type(layer).__module__.startswith("transformers")

def test_no_model_is_made():
    pytest.skip("here")

def test_something_fails_anyway():
    assert False
"""


@pytest.fixture(scope="module")
def program() -> Iterator[ModuleType]:
    """Import `run.py` with the import path that it has when it runs."""
    names = ("run", "hub", "sources", "suites")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path.insert(0, str(FOLDER))
    try:
        yield __import__("run")
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if module})


def test_outcomes_that_install_changes_are_found_and_others_are_equal(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "trl-internal-testing/tiny-random-LlamaForCausalLM"
    monkeypatch.setattr(program, "BUILD", tmp_path)
    monkeypatch.setattr(program.hub, "MODELS", {name: program.hub.MODELS[name]})
    program.hub.write_hub(tmp_path / "hub", print)
    (tmp_path / "test_theirs.py").write_text(TESTS)
    suite = program.Suite("theirs", ("test_theirs.py",))
    runs = [program.outcomes_of(suite, tmp_path, tmp_path / "hub", on, 1) for on in (False, True)]
    found = program.compared(*runs)
    [differing] = found["differing"]
    assert differing["id"].endswith("test_the_layers_class_is_the_stock_one")
    assert (differing["without"], differing["with"]) == ("passed", "failed")
    assert found["without"] == {"passed": 2, "skipped": 1, "failed": 1}
    assert found["tests_with_fused_decoders"] == 2
    assert found["fused_decoders"] == {"LlamaModel": 2}
    assert found["fused_without_install"] == 0


def test_a_test_that_ran_only_once_differs(program: ModuleType) -> None:
    one = {"id": "a", "outcome": "passed", "reason": "", "fused": {}}
    other = {"id": "b", "outcome": "passed", "reason": "", "fused": {}}
    found = program.compared([one, other], [one])
    [differing] = found["differing"]
    assert (differing["id"], differing["with"]) == ("b", "did not run")


def test_the_committed_run_fused_decoders_in_every_suite_and_nothing_differs() -> None:
    results = json.loads((BENCHMARKS / "results" / "peers.json").read_text(encoding="utf-8"))
    for suite in results["suites"]:
        assert suite["differing"] == []
        assert suite["tests_with_fused_decoders"] > 0
        assert suite["fused_without_install"] == 0
