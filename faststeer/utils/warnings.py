"""TODO utils.warnings."""

from __future__ import annotations


class FaststeerWarning(UserWarning):
    """Something works, but not as the caller may expect."""


class FaststeerWarning(UserWarning):
    """Something works, but not as the caller may expect."""
