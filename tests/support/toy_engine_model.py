"""A model in the form that vLLM gives its models: the residual travels unadded to the next norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 8


class Norm(nn.Module):
    """An RMSNorm that adds the residual first, where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(HIDDEN) + 0.5)
        self.variance_epsilon = 1e-5

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the norm, and the sum where a residual is given."""
        h = x if residual is None else x + residual
        out = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5) * self.weight
        return out if residual is None else (out, h)


class OtherNorm(Norm):
    """A norm that the fused op does not compute."""


class Layer(nn.Module):
    """A decoder layer of two norms, whose results are added by the next one."""

    def __init__(self, norm: type[Norm] = Norm) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.attention, self.mlp = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is to be added, and the residual."""
        if residual is None:
            residual, hidden = hidden, self.input_layernorm(hidden)
        else:
            hidden, residual = self.input_layernorm(hidden, residual)
        hidden, residual = self.post_attention_layernorm(self.attention(hidden), residual)
        return self.mlp(hidden), residual


class AddingLayer(nn.Module):
    """A decoder layer that adds to the stream itself."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor, residual: None) -> Tensor:
        """Return the stream."""
        return hidden + self.mlp(hidden)


class MissingLayer(nn.Identity):
    """Takes the place of a layer that another process has."""


class Model(nn.Module):
    """Layers `first` to before `stop` of a model, as one stage of a pipeline has them."""

    def __init__(self, layers: list[nn.Module], first: int = 0, stop: int | None = None) -> None:
        super().__init__()
        self.first, self.stop = first, len(layers) if stop is None else stop
        self.embed_tokens = nn.Embedding(32, HIDDEN)
        self.layers = nn.ModuleList(
            own if self.first <= at < self.stop else MissingLayer() for at, own in enumerate(layers)
        )
        self.norm = Norm()

    def run(self, tokens: int) -> Tensor | tuple[Tensor, ...]:
        """Run the first `tokens` of the vocabulary as a batch."""
        ids = torch.arange(tokens)
        residual: Tensor | None = None
        hidden = self.embed_tokens(ids)
        if self.first:
            hidden, residual = torch.ones(tokens, HIDDEN), self.embed_tokens(ids)
        for layer in list(self.layers)[self.first : self.stop]:
            returned = layer(hidden, residual)
            hidden, residual = returned if isinstance(returned, tuple) else (returned, None)
        if self.stop < len(self.layers):
            assert residual is not None
            return hidden, residual
        if residual is None:
            return self.norm(hidden)
        return self.norm(hidden, residual)[0]
