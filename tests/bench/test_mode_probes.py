"""`faststeer check` detects caps and conditions by token that act on the wrong tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import MODES, failed, passed, tiny
from unknown_decoders import make

from faststeer.diagnostics.bench import check as checking
from faststeer.diagnostics.bench.check import check
from faststeer.diagnostics.bench.findings import Finding
from faststeer.diagnostics.bench.mode_probes import CAP, CONDITION
from faststeer.models.loading import Loaded
from faststeer.patching.patched import Patched
from faststeer.steering.conditions import TokenCondition


@pytest.fixture(autouse=True)
def no_costs(monkeypatch) -> None:
    monkeypatch.setattr(checking, "costs", lambda model: ())  # slower than the probes


def probed(loaded: Loaded) -> list[Finding]:
    return [finding for finding in check(loaded) if finding.name in MODES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fused_model_passes(dtype) -> None:
    assert passed(probed(tiny(dtype))) == MODES


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX"])
def test_a_hooked_model_passes(family) -> None:
    assert passed(probed(Loaded("mine", make(family), None))) == MODES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", ["floor", "both", "nothing"])
def test_a_cap_of_the_wrong_tokens_fails(dtype, wrong, monkeypatch) -> None:
    right = Patched.cap

    def cap(self: Patched, vector: Any, *, ceiling: float) -> Any:
        if wrong == "nothing":
            return right(self, vector, ceiling=1e6)
        return right(self, vector, floor=ceiling, ceiling=ceiling if wrong == "both" else None)

    monkeypatch.setattr(Patched, "cap", cap)
    assert failed(probed(tiny(dtype))) == {CAP}


@pytest.mark.parametrize(
    "wrong",
    [lambda met: ~met, lambda met: met.roll(1, 1), torch.zeros_like, torch.ones_like],
    ids=["the others", "one token late", "none", "all"],
)
def test_a_condition_of_the_wrong_tokens_fails(wrong, monkeypatch) -> None:
    right = TokenCondition.met
    monkeypatch.setattr(TokenCondition, "met", lambda *given: wrong(right(*given)))
    assert failed(probed(tiny())) == {CONDITION}


def test_a_model_of_one_layer_has_no_verdict_on_conditions(make_tiny) -> None:
    findings = probed(Loaded("one", make_tiny(num_hidden_layers=1), None))
    assert passed(findings) == {CAP}
    [condition] = [one for one in findings if one.name == CONDITION]
    assert condition.passed is None
    assert "the model has one layer" in condition.measured
