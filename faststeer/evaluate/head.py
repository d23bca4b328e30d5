"""Logits from hidden states, of some tokens at a time: [B, T, vocab] would not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.batches import device_of

_ELEMENTS = 1 << 23  # logits at once: 32 MiB in float32


class Head:
    """What a causal model does after its decoder."""

    def __init__(self, model: nn.Module) -> None:
        """One forward of two tokens tells whether the model does no more than is done here.

        Raises:
            ValueError: it has no output embedding, or its logits are something else yet.
        """
        whole: Any = model
        name = type(model).__name__
        embedding = getattr(whole, "get_output_embeddings", lambda: None)()
        if embedding is None:
            raise ValueError(f"a {name} has no output embedding; logits need a causal model")
        self._embedding: nn.Module = embedding
        config = whole.config.get_text_config(decoder=True)
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        if not self._agrees(whole):
            raise ValueError(
                f"the logits of a {name} are more than its output embedding of the last hidden "
                "states; evaluation does not know them"
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """``[P, V]`` in the model's dtype, of the decoder's last hidden states ``[P, H]``."""
        found: Tensor = self._embedding(hidden)
        return found if self._cap is None else torch.tanh(found / self._cap) * self._cap

    def pieces(self, tokens: int) -> Iterator[slice]:
        """Slices of so many tokens whose logits fit into memory."""
        weight: Any = self._embedding.weight
        step = max(1, _ELEMENTS // int(weight.shape[0]))
        for start in range(0, tokens, step):
            yield slice(start, start + step)

    def _agrees(self, model: Any) -> bool:
        seen: list[Tensor] = []
        hook = self._embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        ids = torch.tensor([[0, 1]], device=device_of(model))
        try:
            with torch.inference_mode():
                expected = model(input_ids=ids, use_cache=False).logits.float()
        finally:
            hook.remove()
        with torch.inference_mode():
            found = self.logits(seen[0]).float().to(expected.device)
        # Steering may be so strong that nothing finite is left on either side.
        alike = found.shape == expected.shape
        return alike and torch.allclose(found, expected, rtol=2e-2, equal_nan=True)
