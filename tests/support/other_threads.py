"""Actions in another thread, including during a model's forward pass."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from patched_tiny import logits


def elsewhere(act: Callable[[], Any]) -> Any:
    """Run `act` in another thread; return its result or raise its error."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result(60)


def in_the_middle(model, act: Callable[[], Any]) -> Any:
    """Run a forward pass and, during layer 1, `act` in another thread; return its outcome."""
    found: list[Any] = []

    def during_layer_1(module: Any, args: Any) -> None:
        hook.remove()
        try:
            found.append(elsewhere(act))
        except BaseException as error:
            found.append(error)

    hook = model.model.layers[1].register_forward_pre_hook(during_layer_1)
    try:
        logits(model)
    finally:
        hook.remove()
    [result] = found
    return result
