"""The residual stream of a patched model: what is fused, when, and what is handed over.

A layer ends with a residual add, and the next begins with a norm of that sum. Fused, the sum and
its norm come from one pass; the layer returns the sum, as the stock one does, and the norm waits
in a `NormHandoff` for the next layer. It is used only for the very tensor that was returned, and
only where nobody could have changed that tensor in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from faststeer import ops
from faststeer.models.calls import hidden_argument
from faststeer.models.family import Family
from faststeer.steering.site_table import SiteTable

_any_global_hook: Callable[[], bool] = _has_any_global_hook
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN = (Tensor, nn.Parameter)


class NormHandoff:
    """A norm computed by one layer for the next; one for the whole model."""

    def __init__(self) -> None:
        """Nothing waits."""
        self.waiting: tuple[Tensor, Tensor, nn.Module, int | None] | None = None

    def give(self, residual: Tensor, normed: Tensor, norm: nn.Module) -> None:
        """`normed` is what `norm` would make of `residual`."""
        self.waiting = (residual, normed, norm, _version(residual))

    def take(self, residual: Tensor, norm: nn.Module) -> Tensor | None:
        """What `norm` makes of `residual`, if that is known.

        Never with grad enabled: what waits was made without, as by a layer inside a reentrant
        checkpoint, and would cut the gradient.
        """
        waiting = self.waiting
        self.waiting = None
        if waiting is None or torch.is_grad_enabled():
            return None
        known, normed, for_norm, version = waiting
        if known is residual and for_norm is norm and version == _version(residual):
            return normed
        return None


def _version(tensor: Tensor) -> int | None:
    """Counts in-place edits, as by a loop of one's own over the layers. Where torch keeps no count
    (inference tensors, compiled graphs) only hooks and wrappers are looked at.
    """
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return tensor._version


class FusedResidual:
    """The stream through one layer. `successor` is the layer or the final norm that comes next."""

    def __init__(
        self,
        handoff: NormHandoff,
        tables: tuple[SiteTable, SiteTable],
        family: Family,
        successor: nn.Module,
        norm_name: str | None,
    ) -> None:
        """`tables`: of resid_mid and resid_post. `family`: whose norms the op computes.

        `norm_name`: the successor's own first norm; None where the successor is the norm.
        """
        self.handoff = handoff
        self.mid, self.post = tables
        self.norm_types = (family.norm, family.steered_norm)
        self.epsilon = family.epsilon
        self.weight_offset = family.weight_offset
        self.successor = successor
        self.norm_name = norm_name

    def enter(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        """The normed input of the layer."""
        normed = self.handoff.take(hidden, norm)
        if normed is not None:
            return normed
        computed: Tensor = norm(hidden)
        return computed

    def middle(self, x: Tensor, hidden: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """``(normed, residual)`` after attention."""
        if self._fusable(x, hidden, norm) and not _has_hooks(norm):
            return self._fused(x, hidden, norm, self.mid)
        hidden = _unfused(x, hidden, self.mid)
        return norm(hidden), hidden

    def leave(self, layer: nn.Module, x: Tensor, hidden: Tensor) -> Tensor:
        """The layer's output; its norm for the successor is handed over where that is safe."""
        if not torch.is_grad_enabled() and _output_reaches(layer, self.successor):
            norm: Any = self.successor
            if self.norm_name is not None:
                norm = self.successor._modules[self.norm_name]
            if self._fusable(x, hidden, norm) and (norm is self.successor or not _has_hooks(norm)):
                normed, residual = self._fused(x, hidden, norm, self.post)
                self.handoff.give(residual, normed, norm)
                return residual
        return _unfused(x, hidden, self.post)

    def _fused(
        self, x: Tensor, hidden: Tensor, norm: nn.Module, table: SiteTable
    ) -> tuple[Tensor, Tensor]:
        weight: Any = norm._parameters["weight"]
        epsilon: float = getattr(norm, self.epsilon)
        normed, residual = ops.steer_add_rms_norm(
            x, hidden, weight, epsilon, *table.entries(hidden), weight_offset=self.weight_offset
        )
        if table.readers:
            _let_read(table, residual)
        return normed, residual

    def _fusable(self, x: Tensor, hidden: Tensor, norm: nn.Module) -> bool:
        """Whether the op does what the add and this norm would, on tensors that it can read."""
        weight: Any = norm._parameters.get("weight")
        return (
            type(norm) in self.norm_types
            and "forward" not in norm.__dict__
            and type(weight) in _PLAIN
            and weight.device == hidden.device
            and type(x) in _PLAIN
            and type(hidden) in _PLAIN
            and hidden.dtype in _FUSED_DTYPES
            and _same_result_dtype(x, hidden)
            and _same_result_dtype(weight, hidden)
        )


class EmbeddingSteering:
    """A forward pre-hook of layer 0, for `resid_pre` there: hooks and captures see its result."""

    def __init__(self, table: SiteTable, layer: nn.Module) -> None:
        """`table`: the entries to add to the hidden states that `layer` is given."""
        self.table = table
        self.place, self.argument = hidden_argument(layer)

    def steered(self, hidden: Tensor) -> Tensor:
        """Return the steered input; itself where nothing steers it."""
        return steered(hidden, self.table)

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """The layer's arguments with the hidden states steered, or None for no change.

        Raises:
            TypeError: the argument of the hidden states is no tensor.
        """
        by_place = len(args) > self.place
        hidden = args[self.place] if by_place else kwargs.get(self.argument)
        if not isinstance(hidden, Tensor):
            raise TypeError(
                f"a {type(layer).__name__} was given a {type(hidden).__name__} as {self.argument}; "
                "only layers that are given hidden states there can be steered"
            )
        changed = self.steered(hidden)
        if changed is hidden:
            return None
        if by_place:
            return (*args[: self.place], changed, *args[self.place + 1 :]), kwargs
        return args, {**kwargs, self.argument: changed}


def steered(hidden: Tensor, table: SiteTable) -> Tensor:
    """The residual stream ``[B, T, H]`` after the entries of `table`; itself where none are."""
    entries = table.entries(hidden)
    if entries[0] is not None:
        hidden = ops.steer_add(None, hidden, *entries)
    if table.readers:
        _let_read(table, hidden)
    return hidden


def _unfused(x: Tensor, hidden: Tensor, table: SiteTable) -> Tensor:
    entries = table.entries(hidden)
    if entries[0] is None:
        residual = hidden + x
    elif _same_result_dtype(x, hidden):
        residual = ops.steer_add(x, hidden, *entries)
    else:
        residual = ops.steer_add(None, hidden + x, *entries)
    if table.readers:
        _let_read(table, residual)
    return residual


def _let_read(table: SiteTable, residual: Tensor) -> None:
    for reader in table.readers:
        reader(residual)


def _same_result_dtype(other: Tensor, hidden: Tensor) -> bool:
    """Whether torch's own result of the two would have hidden's dtype, as the op's has."""
    return other.dtype == hidden.dtype or hidden.dtype == torch.float32


def _has_hooks(module: nn.Module) -> bool:
    """Whether someone would miss the call of this module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _any_global_hook()
    )


def _output_reaches(layer: nn.Module, successor: nn.Module) -> bool:
    """Whether `layer`'s output reaches `successor` with nobody in between who could edit it."""
    if successor._forward_pre_hooks or _any_global_hook():
        return False
    for hook in layer._forward_hooks.values():
        # transformers leaves its recorder on every layer after one output_hidden_states=True.
        if getattr(hook, "__module__", "") != "transformers.utils.output_capturing":
            return False
    return _transparent(layer) and _transparent(successor)


def _transparent(module: nn.Module) -> bool:
    """Whether an instance's own `forward`, if it has one, hands tensors through unchanged."""
    forward = module.__dict__.get("forward")
    if forward is None or getattr(forward, "__func__", None) is type(module).forward:
        return True
    return type(module.__dict__.get("_hf_hook")).__name__ == "AlignDevicesHook"
