"""The results that `faststeer check` reports, one per line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One result: what was checked, what was measured, and whether it passed; None: no verdict."""

    name: str
    passed: bool | None
    measured: str
