"""Logits from final hidden states, in chunks of tokens: ``[B, T, V]`` would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.models.text_calls import TextCalls, hidden_of

_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2's name, and RecurrentGemma's
_MAX_ELEMENTS = 1 << 23  # logits in memory: 32 MiB in float32


class LMHead:
    """The output embedding of a causal model, with the soft cap of its logits if there is one."""

    def __init__(self, model: nn.Module) -> None:
        """Find the output embedding; a forward pass of two tokens checks that it gives the logits.

        Raises:
            ValueError: a model without output embedding, or whose logits need more than that.
        """
        causal: Any = model
        name = type(model).__name__
        embedding = getattr(causal, "get_output_embeddings", lambda: None)()
        if embedding is None:
            raise ValueError(f"a {name} has no output embedding; logits need a causal model")
        self._embedding: nn.Module = embedding
        config = causal.config.get_text_config(decoder=True)
        caps = (getattr(config, name, None) for name in _CAPS)
        self._cap: float | None = next((cap for cap in caps if cap), None)
        if not self._reproduces_logits(causal):
            raise ValueError(
                f"the logits of a {name} are more than its output embedding of the last hidden "
                "states; continuation_logprobs and perplexity use the model's own"
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits ``[P, V]`` of final hidden states ``[P, H]``, in the model's dtype."""
        found: Tensor = self._embedding(hidden)
        return found if self._cap is None else torch.tanh(found / self._cap) * self._cap

    def chunks(self, tokens: int) -> Iterator[slice]:
        """Yield slices of `tokens` tokens whose logits fit into memory."""
        weight: Any = self._embedding.weight
        step = max(1, _MAX_ELEMENTS // int(weight.shape[0]))
        for start in range(0, tokens, step):
            yield slice(start, start + step)

    def _reproduces_logits(self, model: Any) -> bool:
        """Return whether `logits` of the decoder's output are the model's own; BERT's are not."""
        calls = TextCalls(model, whole=True)
        seen: list[Tensor] = []
        hook = calls.decoder.register_forward_hook(
            lambda module, args, output: seen.append(hidden_of(output))
        )
        ids = torch.tensor([[0, 1]], device=calls.device)
        try:
            with torch.inference_mode():
                expected = calls.output(Batch(ids, torch.ones_like(ids))).float()
        finally:
            hook.remove()
        [hidden] = seen
        if getattr(self._embedding, "in_features", hidden.shape[-1]) != hidden.shape[-1]:
            return False
        with torch.inference_mode():
            found = self.logits(hidden).float().to(expected.device)
        # The same operations in the same order; half precision rounds differently where the model
        # fuses them. Strong steering may leave no finite logits on either side.
        rtol = 1e-5 if hidden.dtype in (torch.float32, torch.float64) else 2e-2
        same_shape = found.shape == expected.shape
        return same_shape and torch.allclose(found, expected, rtol=rtol, equal_nan=True)
