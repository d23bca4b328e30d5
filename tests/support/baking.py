"""The reference for baked models: a change of the residual stream at every site, by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

IDS = torch.randint(0, 512, (3, 9), generator=torch.Generator().manual_seed(1))
SITES = ["resid_pre", "resid_mid", "resid_post"]
BIASED = {"attention_bias": True, "mlp_bias": True}


def near(found: Tensor, expected: Tensor) -> bool:
    """Return whether they agree within float32 rounding over four layers (as in test_steering)."""
    return bool((found - expected).abs().max() < 2e-6 * max(1, expected.abs().max()))


@contextmanager
def changed(model: Any, change: Callable[[str, int, Tensor], Tensor]) -> Iterator[None]:
    """Replace the residual stream by `change(site, layer, hidden)` at every site, unrounded."""

    def on_output(site: str, layer: int) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            return change(site, layer, output)

        return hook

    with ExitStack() as stack:
        embedding = model.model.embed_tokens
        stack.callback(embedding.register_forward_hook(on_output("resid_pre", 0)).remove)
        for index, block in enumerate(model.model.layers):
            stack.callback(block.register_forward_hook(on_output("resid_post", index)).remove)

            def swap(module: Any, args: Any, index: int = index) -> None:
                # In place: this tensor is the residual, and is read again after the MLP.
                args[0].copy_(change("resid_mid", index, args[0]))

            mid = block.post_attention_layernorm
            stack.callback(mid.register_forward_pre_hook(swap).remove)
        yield
