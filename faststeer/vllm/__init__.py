"""A plugin of vLLM: requests that are steered differently, in one batch, at the engine's speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faststeer.vllm.serving import NoPlaceError, add_vector, remove_vector, vectors

if TYPE_CHECKING:
    from faststeer.vllm.engine_capture import capture
    from faststeer.vllm.engine_extract import extract

__all__ = ["NoPlaceError", "add_vector", "capture", "extract", "remove_vector", "vectors"]


def __getattr__(name: str) -> Any:
    """Import `capture` and `extract` on use: vLLM imports this package in every process."""
    if name == "capture":
        from faststeer.vllm.engine_capture import capture

        return capture
    if name == "extract":
        from faststeer.vllm.engine_extract import extract

        return extract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
