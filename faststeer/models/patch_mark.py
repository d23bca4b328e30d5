"""TODO models.patch_mark."""

from __future__ import annotations

MARK = "_faststeer"  # the attribute under which a patched module keeps its state


MARK = "_faststeer"  # the attribute under which a patched module keeps its state
