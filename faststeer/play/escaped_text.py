"""Text of users and files, for a component that shows Markdown."""

from __future__ import annotations


def as_text(text: str) -> str:
    """Return text for a Markdown component that shows it as it is."""
    return "".join(
        f"\\{letter}" if letter in "\\`*_{}[]()<>#+-!|~$&" else letter for letter in text
    )
