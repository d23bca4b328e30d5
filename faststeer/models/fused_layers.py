"""Fused decoder layers: attention, then an MLP, each behind a norm, as in LLaMA."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor, nn

from faststeer.models.family import Family
from faststeer.models.norm_handoff import NormHandoff
from faststeer.models.residual_stream import FusedResidual


class FusedLayer(nn.Module):
    """Base of the layers of all families: fuses both residual adds with the norms after them.

    A family overrides `from_attention` and `feed_forward`.
    """

    mid_norm = "post_attention_layernorm"
    arguments: tuple[str, ...] = ()  # of the stock forward after the hidden states, in order
    _faststeer: FusedResidual
    _modules: Any
    self_attn: Any
    mlp: Any

    @property
    def residual_stream(self) -> FusedResidual:
        """The residual stream through this layer, for code that reads it or starts in it."""
        return self._faststeer

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments after the hidden states by name, as attention takes them.

        All are handed on, whatever their names: those of the cache and others change between
        releases. Attention requires a mask, be it None.
        """
        if args:
            kwargs = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        return kwargs if "attention_mask" in kwargs else {"attention_mask": None, **kwargs}

    def body(self, hidden_states: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        """Return the residual after the layer, and what attention returns beside its output.

        `arguments` are those of `by_name`. Submodules are read from `_modules`: as attributes they
        cost nn.Module 1 µs each.
        """
        stream, modules = self._faststeer, self._modules
        if stream.bypass is not None:
            return stream.bypass(hidden_states), None
        norm = modules["input_layernorm"]
        direct = stream.direct()
        normed = stream.handoff.take(hidden_states, norm)  # mostly computed by the layer before
        if normed is None:
            normed = norm(hidden_states)
        attended, weights = modules["self_attn"](hidden_states=normed, **arguments)
        added = self.from_attention(attended)
        norm = modules[self.mid_norm]
        normed, residual, own = stream.add_norm(added, hidden_states, norm, direct)
        added = self.feed_forward(normed)
        residual = stream.add_norm_ahead(self, added, residual, direct, overwrite=own)
        return residual, weights

    def body_from(self, kind: str, added: Tensor, residual: Tensor) -> Tensor:
        """Return the residual after the layer, from the inputs of the site of that kind."""
        stream = self._faststeer
        direct = stream.direct()
        if kind == "resid_mid":
            norm: Any = self._modules[self.mid_norm]
            normed, residual, _ = stream.add_norm(added, residual, norm, direct)
            added = self.feed_forward(normed)
        return stream.add_norm_ahead(self, added, residual, direct)

    def from_attention(self, attended: Tensor) -> Tensor:
        """Return what is added to the residual after attention."""
        return attended

    def feed_forward(self, normed: Tensor) -> Tensor:
        """Return what is added to the residual at the end."""
        added: Tensor = self._modules["mlp"](normed)
        return added


class PreNormLayer(FusedLayer):
    """Mixin for stock layers that are called as LLaMA's."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map hidden states ``[B, T, H]`` to the same, as the stock layer does."""
        if args or "attention_mask" not in kwargs:
            kwargs = self.by_name(args, kwargs)
        return self.body(hidden_states, kwargs)[0]


class FinalNorm(nn.Module):
    """Mixin for the final norm: reuses the value that the last layer precomputed."""

    _faststeer: NormHandoff

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map ``[..., H]`` to the same, as the stock norm does."""
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
    """Make a family whose `stock` layer and norm, in this order, become `steered` while patched.

    The new classes get the stock names, because _no_split_modules and FSDP policies go by them.
    """
    for own, theirs in zip(steered, stock, strict=True):
        own.__name__ = theirs.__name__
    steered[0].arguments = tuple(signature(stock[0].forward).parameters)[2:]
    return Family(decoder, *stock, *steered, steered[0].mid_norm, epsilon, weight_offset)
