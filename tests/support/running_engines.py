"""Engines of vLLM in the test's own process, one at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(start: Callable[[], Any]) -> Iterator[Any]:
    """Start an engine, and shut it down afterwards.

    No other may run at the same time: it would lose what the engines of a process share.
    """
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm = None
    try:
        llm = start()
        yield llm
    finally:
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()
