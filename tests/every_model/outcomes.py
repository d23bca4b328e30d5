"""Outcomes of checks, and the distinction between a refusal and a crash."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

import faststeer

PACKAGE = Path(faststeer.__file__).parent

RIGHT = "right"
REFUSED = "refused"  # by faststeer, with a reason
STOCK = "stock"  # the stock model cannot do it, so there is nothing to compare with
VOID = "void"  # inconclusive: the right run and a wrong one are too close
WRONG = "wrong"
CRASHED = "crashed"
FAILURES = (WRONG, CRASHED, VOID)


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. `error` is a share of the effect."""

    check: str
    outcome: str
    error: float | None = None
    message: str = ""

    @property
    def failed(self) -> bool:
        """Whether it shows a fault or is inconclusive."""
        return self.outcome in FAILURES


@dataclass
class Report:
    """The findings for one class. `way`: fused, by hook, refused, not built or crashed."""

    name: str
    model_type: str
    way: str = ""
    decoder: str = ""
    reason: str = ""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # properties of the stock model

    @property
    def failed(self) -> bool:
        """Whether any finding is wrong, inconclusive or a crash."""
        return self.way == CRASHED or any(f.failed for f in self.findings)


def judged(check: str, error: BaseException, model: nn.Module) -> Finding:
    """Return the finding of a check that raised `error`."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}".strip()
    if is_refusal(error, model):
        return Finding(check, REFUSED, message=text)
    return Finding(check, CRASHED, message=f"{text} ({Path(place.filename).name}:{place.lineno})")


def is_refusal(error: BaseException, model: nn.Module) -> bool:
    """Return whether faststeer raised it and names a class of the model or `positions=`."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    if (
        not isinstance(error, (ValueError, TypeError))
        or PACKAGE not in Path(place.filename).parents
    ):
        return False
    classes = {type(module).__name__ for module in model.modules()}
    text = str(error)
    return any(name in text for name in classes) or "positions=" in text
