"""The package's warning class."""

from __future__ import annotations


class FaststeerWarning(UserWarning):
    """Warning about something that works, but not as the caller may expect."""
