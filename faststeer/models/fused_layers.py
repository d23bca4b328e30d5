"""The block that LLaMA and its relatives share: attention, then an MLP, each behind a norm."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor, nn

from faststeer.models.family import Family
from faststeer.models.residual_stream import FusedResidual, NormHandoff


class FusedLayer(nn.Module):
    """What the layers of all families share: both residual adds and the norms after them fused."""

    mid_norm = "post_attention_layernorm"
    arguments: tuple[str, ...] = ()  # of the stock forward after the hidden states, in order
    _faststeer: FusedResidual
    self_attn: Any
    mlp: Any
    input_layernorm: nn.Module

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments after the hidden states by name; attention takes them under these.

        All are handed on, whatever their names: those of the cache and others change. Attention
        wants a mask, be it None.
        """
        if args:
            kwargs = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        return kwargs if "attention_mask" in kwargs else {"attention_mask": None, **kwargs}

    def through(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Any]:
        """The residual after the layer, and what attention returns beside its output."""
        stream = self._faststeer
        attended, weights = self.self_attn(
            hidden_states=stream.enter(hidden_states, self.input_layernorm), **kwargs
        )
        return self.from_middle(self.from_attention(attended), hidden_states), weights

    def from_middle(self, added: Tensor, hidden_states: Tensor) -> Tensor:
        """The residual after the layer, from what attention adds and the residual before."""
        stream = self._faststeer
        norm: Any = self._modules[self.mid_norm]
        normed, residual = stream.middle(added, hidden_states, norm)
        return stream.leave(self, self.feed_forward(normed), residual)

    def from_attention(self, attended: Tensor) -> Tensor:
        """What is added to the residual after attention."""
        return attended

    def feed_forward(self, normed: Tensor) -> Tensor:
        """What is added to the residual at the end."""
        added: Tensor = self.mlp(normed)
        return added


class PreNormLayer(FusedLayer):
    """In front of a stock layer's class that is called as LLaMA's are."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the stock layer's: hidden states ``[B, T, H]`` to the same."""
        residual, _ = self.through(hidden_states, **self.by_name(args, kwargs))
        return residual


class FinalNorm(nn.Module):
    """In front of a stock norm's class: the last layer may have computed it already."""

    _faststeer: NormHandoff

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As the stock norm's: ``[..., H]`` to the same."""
        normed = self._faststeer.take(hidden_states, self)
        if normed is None:
            normed = super().forward(hidden_states)
        return normed


def family(
    decoder: type[nn.Module],
    stock: tuple[type[nn.Module], type[nn.Module]],
    steered: tuple[type[FusedLayer], type[nn.Module]],
    epsilon: str = "variance_epsilon",
    weight_offset: float = 0.0,
) -> Family:
    """A family whose layer and norm, in this order, become `steered` while patched.

    Code that goes by class names (_no_split_modules, FSDP policies) has to find the stock ones.
    """
    for own, theirs in zip(steered, stock, strict=True):
        own.__name__ = theirs.__name__
    steered[0].arguments = tuple(signature(stock[0].forward).parameters)[2:]
    return Family(decoder, *stock, *steered, steered[0].mid_norm, epsilon, weight_offset)
