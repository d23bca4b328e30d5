"""`faststeer check` detects tokens and rows that are steered wrongly, on any decoder.

Steering is broken on purpose, in ways that no other check detects. A probe that cannot fail is
worthless.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from checks import PROBED, failed, passed, tiny
from unknown_decoders import SIZES, make

from faststeer.diagnostics.bench import check as checking
from faststeer.diagnostics.bench.check import check
from faststeer.diagnostics.bench.findings import Finding
from faststeer.models.loading import Loaded
from faststeer.patching import patched
from faststeer.patching.call_tokens import CallTokens
from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.markers import After
from faststeer.steering.plan import Plan
from faststeer.steering.scopes import InRange
from faststeer.steering.token_positions import PromptLayout

ROWS = {name for name in PROBED if "padded batch" in name}
TOKENS = PROBED - ROWS
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def tokens(*scopes: str) -> set[str]:
    return {f"these tokens and no others (positions={scope})" for scope in scopes}


def rows(scope: str) -> set[str]:
    return {f"this row and no other (padded batch, positions={scope})"}


def probed(loaded: Loaded) -> list[Finding]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "costs", lambda model: ())  # slower than the probes
        return [finding for finding in check(loaded) if finding.name in PROBED]


def of(model: Any) -> Loaded:
    return Loaded("mine", model, None)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX"])
def test_a_decoder_steered_by_hooks_passes_every_probe_and_check_reports_the_method(
    family,
) -> None:
    findings = list(check(of(make(family))))
    assert passed(findings) >= PROBED
    assert failed(findings) == set()
    assert "hooks steer it" in findings[0].measured


def test_positions_that_generate_and_the_model_count_differently_pass_every_probe() -> None:
    """RoBERTa counts from 2; some versions of generate give it positions from 0."""
    config = transformers.RobertaConfig(
        **{**SIZES, "vocab_size": 300, "max_position_embeddings": 200}, is_decoder=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.RobertaForCausalLM(config).eval()
    assert {finding.name for finding in probed(of(model)) if finding.passed} >= TOKENS


def test_a_sliding_window_shorter_than_the_prompt_is_checked_and_timed(make_tiny) -> None:
    findings = list(check(of(make_tiny(family="Mistral", sliding_window=8))))
    assert passed(findings) >= PROBED
    assert failed(findings) == set()
    [decode] = [one for one in findings if one.name == "cost, decode step"]
    assert "times stock's time" in decode.measured


def test_each_finding_has_its_numbers_and_limits_and_names_the_likeliest_mistake() -> None:
    for finding in probed(tiny()):
        assert "of the effect (limit 0.001) and lies" in finding.measured
        assert "(limit 0.1), which would change the logits by" in finding.measured


def look_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decode steps select tokens by their positions, as a prefill does."""
    monkeypatch.setattr(CallTokens, "only_generated", lambda self: False)


@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_off_by_one_fail_every_scope_that_has_a_boundary(
    dtype, shift, monkeypatch
) -> None:
    right = PromptLayout.at
    monkeypatch.setattr(PromptLayout, "at", lambda self, columns: right(self, columns) + shift)
    look_at_every_token(monkeypatch)
    wrong = TOKENS - tokens("all", "after(marker)") | rows("range(1, 4)")
    assert failed(probed(tiny(dtype))) == wrong


def test_a_marker_that_ends_one_token_too_late_fails(monkeypatch) -> None:
    right = After.columns_behind
    monkeypatch.setattr(After, "columns_behind", lambda self, ids: right(self, ids) + 1)
    assert failed(probed(tiny())) == tokens("after(marker)")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scope_that_is_ignored_fails(dtype, monkeypatch) -> None:
    monkeypatch.setattr(patched, "resolve_scope", lambda *given: None)
    assert failed(probed(tiny(dtype))) == TOKENS - tokens("all") | rows("range(1, 4)")


def test_generated_tokens_that_are_left_out_with_a_cache_fail(monkeypatch) -> None:
    right = ForwardContext.select

    def wrong(self: ForwardContext, given: Any) -> None:
        if given.positions.shape[1] == 1:
            given = replace(given, positions=torch.full_like(given.positions, -1))
        right(self, given)

    monkeypatch.setattr(ForwardContext, "select", wrong)
    look_at_every_token(monkeypatch)
    spared = tokens("all", "prompt", "last")
    assert failed(probed(tiny())) == TOKENS - spared


@pytest.mark.parametrize("acts", [True, False])
def test_a_wrong_answer_for_generated_tokens_as_a_whole_fails(acts, monkeypatch) -> None:
    """Scopes answer for all generated tokens at once, in steps that hold no others."""
    monkeypatch.setattr(InRange, "generated", acts)
    found = failed(probed(tiny()))
    assert tokens("prompt" if acts else "generated") <= found
    assert not tokens("generated" if acts else "prompt") & found


@pytest.mark.parametrize("dtype", DTYPES)
def test_steering_the_next_row_fails(dtype, monkeypatch) -> None:
    right: Any = Plan.settings
    monkeypatch.setattr(
        Plan, "settings", property(lambda self: right.fget(self)[-1:] + right.fget(self)[:-1])
    )
    assert failed(probed(tiny(dtype))) == ROWS


def test_padding_that_is_counted_fails_the_padded_batch(monkeypatch) -> None:
    right: Any = PromptLayout.masked.__func__

    def wrong(cls: Any, mask: Any, ids: Any) -> PromptLayout:
        counted: PromptLayout = right(cls, torch.ones_like(mask), ids)
        return counted

    monkeypatch.setattr(PromptLayout, "masked", classmethod(wrong))
    assert failed(probed(tiny())) == rows("range(1, 4)")


def test_a_hooked_decoder_that_is_steered_wrongly_fails(monkeypatch) -> None:
    right = PromptLayout.at
    monkeypatch.setattr(PromptLayout, "at", lambda self, columns: right(self, columns) + 1)
    assert failed(probed(of(make("GPTNeoX")))) >= tokens("last", "generated")


def test_a_scope_that_is_refused_is_reported_and_a_crash_is_a_failure(
    monkeypatch,
) -> None:
    def refuse(*given: Any) -> None:
        raise ValueError("this decoder has no positions")

    def crash(*given: Any) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(ForwardContext, "select", refuse)
    findings = probed(tiny())
    assert failed(findings) == set()
    assert passed(findings) == tokens("all") | rows("all")
    assert all(
        one.measured == "refused: ValueError: this decoder has no positions"
        for one in findings
        if one.passed is None
    )
    monkeypatch.setattr(ForwardContext, "select", crash)
    findings = probed(tiny())
    assert failed(findings) == PROBED - tokens("all") - rows("all")
    assert any("crashed with AttributeError: no such thing" in one.measured for one in findings)


def test_a_model_that_does_not_generate_is_still_probed_row_by_row(monkeypatch) -> None:
    loaded = tiny()

    def generate(*given: Any, **named: Any) -> None:
        raise NotImplementedError("no generate here")

    loaded.model.generate = generate
    findings = [one for one in check(loaded) if one.name in {*PROBED, "tokens"}]
    assert passed(findings) == ROWS
    [refusal] = [one for one in findings if one.name == "tokens"]
    assert refusal.passed is None
    assert "no generate here" in refusal.measured
