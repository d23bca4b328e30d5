"""Probes of steering servers and libraries for silent failures, from outside."""

from faststeer.diagnostics.conform.examine import PROBES, Report, examine
from faststeer.diagnostics.conform.findings import Exchange, Finding, Verdict
from faststeer.diagnostics.conform.subject import (
    KINDS,
    Answer,
    Ask,
    BrokenError,
    RefusedError,
    Reply,
    Setting,
    Subject,
)

__all__ = [
    "KINDS",
    "PROBES",
    "Answer",
    "Ask",
    "BrokenError",
    "Exchange",
    "Finding",
    "RefusedError",
    "Reply",
    "Report",
    "Setting",
    "Subject",
    "Verdict",
    "examine",
]
