"""The warning class of this package."""

from __future__ import annotations


class FaststeerWarning(UserWarning):
    """Something works, but not as the caller may expect."""
