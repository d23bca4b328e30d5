"""A model under examination: its blocks, the prompts, and vectors strong enough to matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import faststeer
from every_model.calls import Prompts
from every_model.hooks import first_tensor
from every_model.recipes import FIRST_TOKEN, LAYERS, VOCABULARY, Recipe
from every_model.runs import logits_of, run_of_blocks, step_logits

STEERED = (1, 2)  # the middle ones: of hybrids, one of each kind
NEW_TOKENS = 4


class Unexaminable(Exception):
    """Raised for a model whose blocks the reference cannot identify."""


def random_tokens(*shape: int, seed: int) -> Tensor:
    """Return ids without special tokens."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_TOKEN, VOCABULARY, shape, generator=draw)


def padded_prompts(lengths: tuple[int, ...], seed: int, lines: int = 1) -> Prompts:
    """Return prompts of these lengths, padded on the left."""
    width = max(lengths)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return Prompts(random_tokens(len(lengths), width, seed=seed) * mask, mask, lines)


class Subject:
    """A stock model with its blocks, prompts and vectors."""

    def __init__(self, model: Any, recipe: Recipe, fused: bool, hidden_size: int) -> None:
        """`hidden_size`: of the vectors that faststeer takes. Raises Unexaminable."""
        self.model = model
        self.fused = fused
        self.hidden_size = hidden_size
        self.even = padded_prompts((7, 7, 7), 2, recipe.codebooks)
        self.padded = padded_prompts((5, 9, 7), 3, recipe.codebooks)
        self.continuation = random_tokens(3, NEW_TOKENS, seed=4)
        self.blocks = self._blocks(recipe)
        self.directions = self._directions()
        self.vector = faststeer.SteeringVector("v", dict(self.directions))
        self._stock: dict[int, dict[bool, Tensor] | str] = {}

    def _blocks(self, recipe: Recipe) -> list[nn.Module]:
        if recipe.blocks is not None:
            return list(self.model.get_submodule(recipe.blocks).children())
        found = run_of_blocks(self.model, self.even, LAYERS)
        if len(found) != 1:
            raise Unexaminable(f"lists of {LAYERS} blocks: {', '.join(found) or 'none'}")
        return next(iter(found.values()))

    def _directions(self) -> dict[int, Tensor]:
        """Return random directions with the mean norm of the stream after each layer."""
        draw = torch.Generator().manual_seed(5)
        directions = {}
        for layer, hidden in self._streams().items():
            direction = torch.randn(self.hidden_size, generator=draw)
            directions[layer] = direction / direction.norm() * hidden.norm(dim=-1).mean()
        return directions

    def common_direction(self) -> tuple[int, Tensor]:
        """Return a layer and a unit direction: half the stream's mean there, half random."""
        layer, hidden = next(iter(self._streams().items()))
        common = hidden.reshape(-1, self.hidden_size).mean(0)
        direction = common / common.norm() + self.directions[layer] / self.directions[layer].norm()
        return layer, direction / direction.norm()

    def _streams(self) -> dict[int, Tensor]:
        """Return the output of each steered block in a forward of the prompts."""
        streams: dict[int, Tensor] = {}
        hooks = [
            self.blocks[layer].register_forward_hook(
                lambda m, a, o, layer=layer: streams.__setitem__(layer, first_tensor(o))
            )
            for layer in STEERED
        ]
        try:
            logits_of(self.model, self.even)
        finally:
            for hook in hooks:
                hook.remove()
        return streams

    def cannot_generate(self, prompts: Prompts) -> str | None:
        """Return the reason why the stock model cannot generate from `prompts`, or None."""
        stock = self._stock_steps(prompts)
        return stock if isinstance(stock, str) else None

    def cache_differs(self, prompts: Prompts) -> bool:
        """Return whether the stock model's logits depend on the use of a cache."""
        return self.cache_difference(prompts) > 1e-4

    def cache_difference(self, prompts: Prompts) -> float:
        """Return the difference that the cache makes, as a share of the logits."""
        stock = self._stock_steps(prompts)
        assert not isinstance(stock, str)
        return float((stock[True] - stock[False]).abs().max() / stock[True].abs().max())

    def padding_difference(self) -> float:
        """Return the difference between padded prompts and each alone, as a share of the logits."""
        found = self._stock_steps(self.padded)
        assert not isinstance(found, str)
        worst = 0.0
        for row, length in enumerate(self.padded.lengths):
            ids = self.padded.ids[row : row + 1, -length:]
            alone = Prompts(ids, torch.ones_like(ids), self.even.lines)
            logits = step_logits(self.model, alone, self.continuation[row : row + 1])
            worst = max(worst, float((logits[0] - found[True][row]).abs().max()))
        return worst / float(found[True].abs().max())

    def _stock_steps(self, prompts: Prompts) -> dict[bool, Tensor] | str:
        key = id(prompts)
        if key not in self._stock:
            try:
                self._stock[key] = {
                    cache: step_logits(self.model, prompts, self.continuation, (), cache)
                    for cache in (True, False)
                }
            except Exception as error:
                self._stock[key] = f"{type(error).__name__}: {error}"
        return self._stock[key]
