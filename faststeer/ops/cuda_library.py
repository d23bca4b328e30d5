"""The library of CUDA kernels, which is loaded if torch itself has CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from faststeer import _C


def _load() -> str | None:
    facts = _C.build_facts()
    if facts["cuda_absent"]:
        return f"not built: {facts['cuda_absent']}"
    if torch.version.cuda is None:
        return f"not loaded: torch {torch.__version__} has no CUDA"
    beside = Path(_C.__file__)
    load: Callable[[str], None] = torch.ops.load_library
    try:
        load(str(beside.with_name(beside.name.replace("_C", "_cuda", 1))))
    except OSError as error:
        return f"not loaded: {error.__cause__ or error}"
    return None


_UNAVAILABLE = _load()


def unavailable_reason() -> str | None:
    """Return why this process has no CUDA kernels; None if it has them."""
    return _UNAVAILABLE
