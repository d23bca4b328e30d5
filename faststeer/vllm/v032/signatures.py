"""Functions of vLLM 0.32 are used only with the parameters that they are known to have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

Signature = tuple[Callable[..., Any], str]  # a function, and the names of its parameters


def require_signatures(signatures: Iterable[Signature]) -> None:
    """Raise RuntimeError for a function with other parameters than those that are known."""
    for function, expected in signatures:
        found = " ".join(inspect.signature(function).parameters)
        if found != expected:
            raise RuntimeError(
                f"faststeer knows {function.__qualname__} of vLLM 0.32 with the parameters "
                f"{expected}, and this one has {found}"
            )
