"""A dozen diverse decoders, examined as by `make models`; and it detects faults.

The reference, plain hooks in the same cached `generate`, is in `every_model`.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from every_model.building import build, mapping
from every_model.examining import examine, examine_model
from every_model.outcomes import CRASHED, REFUSED, RIGHT, VOID, WRONG, Finding, Report, is_refusal
from every_model.processes import examined_apart
from every_model.recipes import Recipe
from every_model.table import written

import faststeer
from faststeer.steering.conditions import TokenCondition
from faststeer.steering.markers import After
from faststeer.vectors.position_range import NAMED_POSITIONS

WAYS = {
    "LlamaForCausalLM": "fused",
    "Qwen3MoeForCausalLM": "fused",
    "BartForCausalLM": "by hook",
    "Gemma3nForCausalLM": "by hook",
    "GPTNeoXForCausalLM": "by hook",
    "GptOssForCausalLM": "by hook",
    "JambaForCausalLM": "by hook",
    "MambaForCausalLM": "by hook",
    "RecurrentGemmaForCausalLM": "by hook",
    "RobertaForCausalLM": "by hook",
    "RwkvForCausalLM": "by hook",
    "XLNetLMHeadModel": "by hook",
}


@pytest.mark.parametrize("name", WAYS)
def test_each_of_a_dozen_decoders_is_steered_and_read_as_by_plain_hooks_or_refuses(name) -> None:
    report = examine(name, mapping()[name])
    faults = [f for f in report.findings if f.failed]
    assert not report.failed, faults or report.reason
    assert report.way == WAYS[name]
    right = {f.check for f in report.findings if f.outcome == RIGHT}
    assert {"forward", "scope: all", "ablate", "unpatch"} <= right


@pytest.fixture(scope="module")
def model() -> Any:
    return build("LlamaForCausalLM", "llama")


def outcomes(model: Any) -> dict[str, Finding]:
    report = examine_model(model, Report("LlamaForCausalLM", "llama"), Recipe())
    assert report.way == "fused"
    return {finding.check: finding for finding in report.findings}


def test_steering_that_begins_a_token_early_is_reported_wrong(model, monkeypatch) -> None:
    early = NAMED_POSITIONS["from_last_prompt"]
    monkeypatch.setitem(NAMED_POSITIONS, "generated", early)
    found = outcomes(model)
    assert found["scope: generated"].outcome == WRONG
    assert found["scope: generated"].message == "it equals from_last_prompt"
    assert found["rows: generated"].outcome == WRONG
    assert found["capture: generated"].message == "counted 12 tokens of 9"
    assert found["scope: from_last_prompt"].outcome == RIGHT


def test_tokens_that_decide_wrongly_are_reported_wrong(model, monkeypatch) -> None:
    met, cap, behind = TokenCondition.met, faststeer.Patched.cap, After.columns_behind
    monkeypatch.setattr(TokenCondition, "met", lambda *given: met(*given).roll(1, 1))
    monkeypatch.setattr(
        faststeer.Patched, "cap", lambda own, vector, *, ceiling: cap(own, vector, floor=ceiling)
    )
    monkeypatch.setattr(After, "columns_behind", lambda own, ids: behind(own, ids) + 1)
    found = outcomes(model)
    wrong = {"capped", "condition", "written: after", "written: until"}
    assert {name for name, own in found.items() if own.outcome != RIGHT} == wrong
    assert {found[name].outcome for name in wrong} == {WRONG}


def test_steering_of_another_row_is_reported_wrong(model, monkeypatch) -> None:
    own = faststeer.Patched.rows
    monkeypatch.setattr(faststeer.Patched, "rows", lambda p, rows: own(p, [*rows[1:], rows[0]]))
    found = outcomes(model)
    assert found["rows: all"].outcome == WRONG
    assert found["rows: all"].message == "it equals all of another row"
    assert found["rows: range"].message == "it equals range of another row"
    assert found["scope: all"].outcome == RIGHT


def test_steering_that_does_nothing_is_reported_wrong(model, monkeypatch) -> None:
    steer = faststeer.Patched.steer
    monkeypatch.setattr(
        faststeer.Patched, "steer", lambda self, vector, **how: steer(self, vector, 0.0, **how)
    )
    found = outcomes(model)
    assert found["forward"].outcome == WRONG
    assert found["scope: last"].message == "it equals unsteered"


def test_a_leftover_hook_is_reported(model, monkeypatch) -> None:
    unpatch = faststeer.Patched.unpatch

    def leaving(self: Any) -> None:
        unpatch(self)
        hook = model.model.layers[2].register_forward_hook(lambda *_: None)
        left.append(hook)

    left: list[Any] = []
    monkeypatch.setattr(faststeer.Patched, "unpatch", leaving)
    try:
        assert outcomes(model)["unpatch"].message == "model.layers.2: its hooks changed"
    finally:
        for hook in left:
            hook.remove()


def test_a_model_on_which_a_wrong_run_makes_no_difference_is_inconclusive(model) -> None:
    layers = model.model.layers
    with torch.no_grad():
        for layer in layers[2:]:  # a token does not influence later ones
            layer.self_attn.o_proj.weight.zero_()
    try:
        found = outcomes(model)
        assert found["scope: all"].outcome == VOID
        assert found["scope: prompt"].message == "last would hardly differ"
    finally:
        model.load_state_dict(build("LlamaForCausalLM", "llama").state_dict())


def test_faststeers_own_errors_that_name_the_class_are_refusals_and_others_are_not(model) -> None:
    def raised(action: Any) -> Exception:
        with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
            action()
        return caught.value

    with faststeer.patch(model) as patched:
        vector = faststeer.SteeringVector("v", {9: torch.ones(32)})
        assert not is_refusal(
            raised(lambda: patched.steer(vector)), model
        )  # does not name the class
        unknown = {1: torch.ones(32)}
        vector = faststeer.SteeringVector("v", unknown)
        refused = raised(lambda: patched.steer(vector, positions="nowhere"))
    assert is_refusal(refused, model)
    assert not is_refusal(raised(lambda: model(input_ids=torch.ones(2))), model)


def test_a_class_whose_process_dies_or_raises_or_takes_too_long_is_reported_crashed() -> None:
    def dying(name: str, model_type: str) -> Report:
        os.kill(os.getpid(), signal.SIGKILL)

    def raising(name: str, model_type: str) -> Report:
        raise KeyError("layers")

    def hanging(name: str, model_type: str) -> Report:
        time.sleep(60)
        raise AssertionError

    # On a busy machine, a process takes seconds to begin: only the one that hangs has few.
    limits = {dying: 60.0, raising: 60.0, hanging: 1.0}
    reports = [examined_apart(examine, "X", "x", limit) for examine, limit in limits.items()]
    assert all(report.failed and report.way == CRASHED for report in reports)
    reasons = [report.reason for report in reports]
    assert reasons[0] == "its process ended with SIGKILL"
    assert reasons[1].startswith("KeyError: 'layers' (")
    assert reasons[2] == "took longer than 1 s"


def test_child_processes_of_a_class_end_with_it(tmp_path: Path) -> None:
    def hanging(name: str, model_type: str) -> Report:
        if os.fork() == 0:
            (tmp_path / "began").touch()
            time.sleep(12)
            (tmp_path / "still running").touch()
            os._exit(0)
        time.sleep(60)
        raise AssertionError

    examined_apart(hanging, "X", "x", 10.0)  # enough to begin on a busy machine
    assert (tmp_path / "began").exists()
    time.sleep(4)
    assert not (tmp_path / "still running").exists()


def test_the_table_shows_faults_refusals_and_the_worst_error() -> None:
    good = Report("LlamaForCausalLM", "llama", "fused", findings=[Finding("forward", RIGHT, 2e-7)])
    good.findings.append(Finding("scope: all", RIGHT, 5e-7))
    good.findings.append(Finding("rows: all", WRONG, 0.5, "off by 5.0e-01"))
    good.findings.append(Finding("capture", REFUSED, message="ValueError: no\nmask"))
    text = written([good, Report("XForCausalLM", "x", "not built", reason="needs timm")], 1e-6)
    row = next(line for line in text.splitlines() if line.startswith("| LlamaForCausalLM"))
    assert "| yes | **not examined** | **wrong** |" in row
    assert row.endswith("| 5.0e-01 |")
    assert "- LlamaForCausalLM: capture refused: ValueError: no mask" in text
    assert "- XForCausalLM: needs timm" in text
    assert "1 fused, 1 not built" in text
