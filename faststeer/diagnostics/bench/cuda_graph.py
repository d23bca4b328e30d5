"""Run decode steps that a CUDA graph can capture: a static cache and no allocations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.models.calls import past_argument


class StaticDecode:
    """Decode steps of one token per row after a prompt, over one cache that all models share.

    Needs transformers 5, whose static cache counts its tokens on the device.
    """

    def __init__(self, model: nn.Module, ids: Tensor, new_tokens: int) -> None:
        """Fill a cache with the prompt `ids` ``[B, T]`` and leave room for `new_tokens` more."""
        from transformers import StaticCache

        self.prompt_tokens = ids.shape[1]
        length = self.prompt_tokens + new_tokens
        config: Any = model.config
        self.past = past_argument(model)
        self.cache: Any = StaticCache(config=config, max_cache_len=length)
        self.token = ids[:, -1:].clone()
        self.position = torch.full((1, 1), self.prompt_tokens, device=ids.device)
        # Without a mask the model would build one, and decide on the host which.
        self.mask = torch.ones(ids.shape[0], 1, 1, length, dtype=torch.bool, device=ids.device)
        with torch.inference_mode():
            prompt_mask = self.mask.new_ones(self.prompt_tokens, length).tril()
            model(
                input_ids=ids,
                attention_mask=prompt_mask.expand(ids.shape[0], 1, -1, -1),
                **{self.past: self.cache},
                use_cache=True,
                logits_to_keep=1,
            )

    @torch.inference_mode()
    def rewind(self) -> None:
        """Drop all tokens after the prompt from the cache."""
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.prompt_tokens)
        self.position.fill_(self.prompt_tokens)
        self.mask[..., self.prompt_tokens :] = False

    @torch.inference_mode()
    def step(self, model: nn.Module) -> Tensor:
        """Return the logits ``[B, 1, V]`` of one step of `model`, without waiting on the host."""
        self.mask.index_fill_(3, self.position[0], True)
        output: Tensor = model(
            input_ids=self.token,
            attention_mask=self.mask,
            position_ids=self.position,
            **{self.past: self.cache},
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.position.add_(1)
        return output

    @torch.inference_mode()
    def capture(self, model: nn.Module) -> Callable[[], None]:
        """Capture one step of `model` as a CUDA graph and return its replay.

        Call `rewind` before the cache is full.
        """
        for _ in range(2):  # libraries initialise themselves on the first calls
            self.rewind()
            self.step(model)
        self.rewind()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(model)
        self.rewind()
        replay: Callable[[], None] = graph.replay
        return replay
