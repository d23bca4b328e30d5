"""`faststeer info`: what was built and what runs here."""

from __future__ import annotations

from rich.console import Console


def info() -> None:
    """Tell what was built, what runs here, and why CUDA is off if it is."""
    from faststeer.cli.facts import show

    show(Console())
