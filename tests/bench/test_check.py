from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checks import MODES, PROBED, exit_code, failed, passed, run_cli, tiny
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from faststeer import _C, ops
from faststeer.data.batches import left_padded
from faststeer.diagnostics.bench import tolerance
from faststeer.diagnostics.bench.check import check
from faststeer.models import residual_stream
from faststeer.models.inference import logits
from faststeer.models.loading import Loaded
from faststeer.patching import fused
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Plan

SMALL_GPT2 = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=32)
HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALF)
CHECKED = {
    *PROBED,
    *MODES,
    "idle parity",
    "steered equals a hook",
    "coefficient is live",
    "off() is idle",
    "exact undo",
}


# Checking a correct patch.


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_patch_passes_every_check(dtype: torch.dtype) -> None:
    findings = list(check(tiny(dtype)))
    assert passed(findings) == CHECKED
    assert failed(findings) == set()


@pytest.mark.parametrize("dtype", HALF)
def test_a_model_too_large_for_a_float32_copy_is_held_to_the_wide_limit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tolerance, "LARGEST_COPY", 1)
    findings = list(check(tiny(dtype)))
    assert passed(findings) == CHECKED
    assert "wide limit" in findings[1].measured


def test_with_a_tokenizer_greedy_tokens_must_equal_stocks_in_float32(byte_tokenizer: Any) -> None:
    findings = list(check(replace(tiny(), tokenizer=byte_tokenizer)))
    assert passed(findings) == {*CHECKED, "greedy tokens"}


def test_in_half_precision_greedy_tokens_are_reported_but_not_judged(byte_tokenizer: Any) -> None:
    loaded = replace(tiny(torch.bfloat16), tokenizer=byte_tokenizer)
    (tokens,) = [finding for finding in check(loaded) if finding.name == "greedy tokens"]
    assert tokens.passed is None


def test_checking_leaves_the_model_unchanged() -> None:
    model = tiny().model
    batch = left_padded([[1, 2, 3], [4]], 0, torch.device("cpu"))
    before = logits(model, batch)
    list(check(Loaded("mine", model, None)))
    assert torch.equal(logits(model, batch), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


# Checking wrong patches: a check that cannot fail is worthless.


def replace_fused_op(monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Any]) -> None:
    """Let every fused site call `wrong` in place of `ops.steer_add_rms_norm`."""
    declining = SimpleNamespace(steer_add_norm=lambda *_: None, run_plainly=_C.run_plainly)
    monkeypatch.setattr(residual_stream, "_C", declining)
    monkeypatch.setattr(ops, "steer_add_rms_norm", wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copied", [True, False])
def test_a_norm_without_its_weight_fails(
    dtype: torch.dtype, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ops.steer_add_rms_norm

    def wrong(x: Any, residual: Any, weight: Any, *rest: Any, **offset: Any) -> Any:
        return right(x, residual, torch.ones_like(weight), *rest, **offset)

    replace_fused_op(monkeypatch, wrong)
    if not copied:
        monkeypatch.setattr(tolerance, "LARGEST_COPY", 1)
    assert {"idle parity", "steered equals a hook"} <= failed(list(check(tiny(dtype))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copied", [True, False])
def test_a_patch_that_does_not_steer_fails(
    dtype: torch.dtype, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    normed, added = ops.steer_add_rms_norm, ops.steer_add
    replace_fused_op(monkeypatch, lambda *args, **offset: normed(*args[:4]))
    monkeypatch.setattr(ops, "steer_add", lambda *args: added(*args[:2]))
    if not copied:
        monkeypatch.setattr(tolerance, "LARGEST_COPY", 1)
    findings = list(check(tiny(dtype)))
    assert failed(findings) == {"steered equals a hook", "coefficient is live", *PROBED, *MODES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_patch_that_steers_all_texts_but_one_fails(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ops.steer_add_rms_norm

    def wrong(*args: Any, **offset: Any) -> Any:
        steered, idle = right(*args), right(*args[:4])
        for ours, unsteered in zip(steered, idle, strict=True):
            ours[0] = unsteered[0]
        return steered

    replace_fused_op(monkeypatch, wrong)
    assert failed(list(check(tiny(dtype)))) - PROBED - MODES == {"steered equals a hook"}


def test_a_coefficient_off_by_a_hundredth_fails_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Patched.steer

    def wrong(self: Patched, vector: Any, coefficient: float = 1.0) -> Any:
        return right(self, vector, coefficient * 1.01)

    monkeypatch.setattr(Patched, "steer", wrong)
    assert "steered equals a hook" in failed(list(check(tiny())))


def test_a_coefficient_that_cannot_be_changed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "set_coefficient", lambda *args: None)
    assert failed(list(check(tiny()))) == {"coefficient is live"}


def test_steering_that_cannot_be_switched_off_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    unchanging = property(lambda self: 0, lambda self, value: None)
    monkeypatch.setattr(Plan, "disable_depth", unchanging, raising=False)
    assert failed(list(check(tiny()))) == {"off() is idle"}


def test_a_class_left_behind_fails_the_undo_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fused.restore

    def wrong(module: nn.Module, stock: type[nn.Module]) -> None:
        if "Norm" not in stock.__name__:
            right(module, stock)

    monkeypatch.setattr(fused, "restore", wrong)
    assert failed(list(check(tiny()))) == {"exact undo"}


def test_changed_weights_fail_the_undo_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Patched.unpatch

    def wrong(self: Patched) -> None:
        right(self)
        with torch.no_grad():
            next(self.decoder.parameters()).mul_(1.001)

    monkeypatch.setattr(Patched, "unpatch", wrong)
    assert "exact undo" in failed(list(check(tiny())))


def test_greedy_tokens_that_differ_fail_in_float32(
    byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong only with a cache, as in generate: all other checks pass."""
    right = ops.steer_add_rms_norm

    def wrong(x: Any, residual: Any, *rest: Any, **offset: Any) -> Any:
        return right(-x if residual.shape[1] == 1 else x, residual, *rest, **offset)

    replace_fused_op(monkeypatch, wrong)
    findings = check(replace(tiny(), tokenizer=byte_tokenizer))
    assert failed(list(findings)) - PROBED - MODES == {"greedy tokens"}


# The commands.


def test_check_prints_a_line_for_each_finding_and_exits_with_0() -> None:
    done = run_cli("check", "--model", "random:tiny", "--num-layers", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(":")[0] for line in lines if line.startswith("pass")} == {
        f"pass  {name}" for name in CHECKED
    }
    assert [line.split("  ")[0] for line in lines if not line.startswith("pass")] == ["info"] * 4


def test_check_exits_with_1_if_anything_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Plan, "set_coefficient", lambda *args: None)
    assert exit_code(monkeypatch, tiny(), "check --model mine") == 1
    assert "FAIL  coefficient is live: setting it changed nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "model", "message"),
    [
        ("check", nn.Linear(2, 2), "Linear holds no decoder that can be patched"),
        (
            "bench --rounds 1",
            GPT2LMHeadModel(SMALL_GPT2),
            "GPT2LMHeadModel holds no decoder of a known",
        ),
    ],
)
def test_a_model_that_cannot_be_patched_is_refused_with_exit_code_2(
    command: str,
    model: nn.Module,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(monkeypatch, Loaded("other", model, None), f"{command} --model other") == 2
    assert message in capsys.readouterr().err
