"""What `faststeer check` reports, line by line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line: what was checked, what was measured, whether it is right; None: no verdict."""

    name: str
    passed: bool | None
    measured: str
