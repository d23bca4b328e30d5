"""The beginnings of texts that are generated to be judged."""

from __future__ import annotations

import json
from importlib import resources


def openings(count: int) -> list[str]:
    """Return up to 20 beginnings of sentences, which leave the shipped traits open."""
    path = resources.files("faststeer") / "data" / "openings.json"
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return texts[:count]
