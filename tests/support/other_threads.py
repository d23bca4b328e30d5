"""Doing something in another thread, also while a model is in a forward."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from patched_tiny import logits


def elsewhere(act: Callable[[], Any]) -> Any:
    """What `act` returns or raises in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result(60)


def in_the_middle(model, act: Callable[[], Any]) -> Any:
    """A forward; while it is in layer 1, `act` runs in another thread. Its result or error."""
    found: list[Any] = []

    def meanwhile(module: Any, args: Any) -> None:
        hook.remove()
        try:
            found.append(elsewhere(act))
        except BaseException as error:
            found.append(error)

    hook = model.model.layers[1].register_forward_pre_hook(meanwhile)
    try:
        logits(model)
    finally:
        hook.remove()
    [result] = found
    return result
