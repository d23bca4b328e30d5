"""Run all checks of one class."""

from __future__ import annotations

import warnings
from typing import Any

import torch

import faststeer
from every_model.ablation_check import ablation_check
from every_model.building import Unbuilt, build
from every_model.calls import Prompts
from every_model.mode_checks import mode_checks
from every_model.outcomes import (
    CRASHED,
    REFUSED,
    RIGHT,
    VOID,
    WRONG,
    Finding,
    Report,
    is_refusal,
    judged,
)
from every_model.reading_checks import reading_checks
from every_model.recipes import RECIPES, Recipe
from every_model.runs import logits_of
from every_model.steering_checks import steering_checks
from every_model.subject import Subject, Unexaminable, padded_prompts

NOTABLE = 1e-4  # of the logits


def examine(name: str, model_type: str) -> Report:
    """Build a model of the class and compare faststeer with plain hooks on it."""
    report = Report(name, model_type)
    try:
        model = build(name, model_type)
    except Unbuilt as error:
        report.way, report.reason = "not built", str(error)
        return report
    return examine_model(model, report, RECIPES.get(name, Recipe()))


def examine_model(model: Any, report: Report, recipe: Recipe) -> Report:
    """Fill in and return `report` for an existing model."""
    prompts = padded_prompts((7, 7, 7), 2, recipe.codebooks)
    try:
        before = _State(model, prompts)
    except Exception as error:
        report.way = "not built"
        report.reason = f"its own forward fails: {type(error).__name__}: {error}"
        return report
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            patched = faststeer.patch(model)
        except Exception as error:
            report.way = "refused" if is_refusal(error, model) else CRASHED
            report.reason = f"{type(error).__name__}: {error}"
        else:
            report.decoder = type(patched.decoder).__name__
            hooks = any(one.category is faststeer.FaststeerWarning for one in caught)
            report.way = "by hook" if hooks else "fused"
            hidden_size, layers = patched.hidden_size, patched.num_layers
            patched.unpatch()
    if report.way in ("fused", "by hook"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _examine_patched(model, report, recipe, hidden_size, layers)
    report.findings.append(before.compared(model, prompts))
    return report


def _examine_patched(
    model: Any, report: Report, recipe: Recipe, hidden_size: int, layers: int
) -> None:
    try:
        subject = Subject(model, recipe, report.way == "fused", hidden_size)
    except Unexaminable as error:
        report.findings.append(Finding("blocks", VOID, message=str(error)))
        return
    if layers != len(subject.blocks):
        message = f"{layers} layers instead of {len(subject.blocks)}"
        report.findings.append(Finding("blocks", WRONG, message=message))
        return
    for checks in (steering_checks, ablation_check, mode_checks, reading_checks):
        try:
            report.findings.extend(checks(subject))
        except Exception as error:
            report.findings.append(judged(checks.__name__, error, model))
    _note(subject, report)
    for finding in report.findings:
        if finding.check == "forward" and finding.outcome == REFUSED:
            # It can be patched, but not even all positions can be steered.
            report.way, report.reason = "refused", finding.message


def _note(subject: Subject, report: Report) -> None:
    """Record properties of the stock model that limit the comparison."""
    for prompts, what in ((subject.even, "prompts"), (subject.padded, "padded prompts")):
        reason = subject.cannot_generate(prompts)
        if reason is not None:
            report.notes.append(f"stock does not generate from {what}: {reason}")
            continue
        difference = subject.cache_difference(prompts)
        if difference > NOTABLE:
            report.notes.append(
                f"stock's logits from {what} differ by {difference:.0e} with a cache and without"
            )
        if prompts is subject.padded:
            difference = subject.padding_difference()
            if difference > NOTABLE:
                report.notes.append(f"padding changes stock's own logits by {difference:.0e}")


class _State:
    """The state that patching and unpatching must not change."""

    def __init__(self, model: Any, prompts: Prompts) -> None:
        """Record the present state."""
        logits_of(model, prompts)  # a first forward may leave attributes behind
        self.logits = logits_of(model, prompts)
        self.modules = self._modules(model)

    @staticmethod
    def _modules(model: Any) -> list[tuple[Any, ...]]:
        return [
            (
                name,
                type(module),
                sorted(module.__dict__),
                list(module._forward_hooks.values()),
                list(module._forward_pre_hooks.values()),
            )
            for name, module in model.named_modules()
        ]

    def compared(self, model: Any, prompts: Prompts) -> Finding:
        """Return a finding that compares the present state with the recorded one."""
        check = "unpatch"
        after = self._modules(model)
        for one, other in zip(self.modules, after, strict=True):
            if one != other:
                parts = ("name", "class", "attributes", "hooks", "pre-hooks")
                part = next(p for p, a, b in zip(parts, one, other, strict=True) if a != b)
                return Finding(check, WRONG, message=f"{one[0] or 'the model'}: its {part} changed")
        if not torch.equal(logits_of(model, prompts), self.logits):
            return Finding(check, WRONG, message="the logits are not the same bits")
        return Finding(check, RIGHT, 0.0)
