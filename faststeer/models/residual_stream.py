"""The residual stream of a fused model: which operations are fused, and when.

A layer ends with a residual add, and the next begins with a norm of that sum. Fused, the sum and
its norm come from one pass; the layer returns the sum, as the stock one does, and the norm waits
in a `NormHandoff` for the next layer. It is used only for the very tensor that was returned, and
only where no other code could change that tensor in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from faststeer import _C, ops
from faststeer.models.calls import hidden_argument
from faststeer.models.family import Family
from faststeer.models.norm_handoff import NormHandoff
from faststeer.steering.device_tables import Entries
from faststeer.steering.site_table import SiteTable

_any_global_hook: Callable[[], bool] = _has_any_global_hook
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN = (Tensor, nn.Parameter)


class FusedResidual:
    """The residual stream through one layer: its two residual adds, each fused with a norm.

    `successor` is the layer or the final norm that comes next. `bypass`, where it is set, computes
    the layer's output in place of its body, for forwards that start in the middle of a model.
    """

    def __init__(
        self,
        handoff: NormHandoff,
        tables: tuple[SiteTable, SiteTable],
        family: Family,
        successor: nn.Module,
        norm_name: str | None,
    ) -> None:
        """Create the stream of a layer.

        Args:
            handoff: one for the whole model.
            tables: of resid_mid and resid_post.
            family: whose norms the op computes.
            successor: the layer or the final norm that comes next.
            norm_name: the successor's own first norm; None where the successor is the norm.
        """
        self.handoff = handoff
        self.mid, self.post = tables
        self.norm_types = (family.norm, family.steered_norm)
        self.epsilon = family.epsilon
        self.weight_offset = family.weight_offset
        self.successor = successor
        self.norm_name = norm_name
        self.bypass: Callable[[Tensor], Tensor] | None = None

    def direct(self) -> bool:
        """Return whether ops may be called without torch's dispatcher and without gradients."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return False
        return self.mid.forward.direct

    def add_norm(
        self, x: Tensor, residual: Tensor, norm: nn.Module, direct: bool
    ) -> tuple[Tensor, Tensor, bool]:
        """Add `x`, steer at resid_mid and norm: return ``(normed, residual)``.

        The third value is whether the caller alone holds the residual.
        """
        table = self.mid
        if table.inputs_readers:
            _call_inputs_readers(table, x, residual)
        entries = table.eager_entries(residual) if direct else table.entries(residual)
        both = self._fused(x, residual, norm, entries, direct)
        if both is None:
            residual = _unfused(x, residual, entries, table)
            return norm(residual), residual, False
        if table.readers:
            _call_readers(table, both[1])
            return *both, False
        return *both, True

    def add_norm_ahead(
        self, layer: nn.Module, x: Tensor, residual: Tensor, direct: bool, overwrite: bool = False
    ) -> Tensor:
        """Add `x`, steer at resid_post and return the layer's output.

        The successor's norm comes from the same pass where no other code could see or change the
        output in between, and is handed over. `overwrite`: the residual's memory may be reused.
        """
        table, successor = self.post, self.successor
        if table.inputs_readers:
            _call_inputs_readers(table, x, residual)
            overwrite = False
        entries = table.eager_entries(residual) if direct else table.entries(residual)
        if not (direct and _C.run_plainly(layer, successor)) and not _output_reaches(
            layer, successor
        ):
            return _unfused(x, residual, entries, table)
        norm: Any = successor
        if self.norm_name is not None:
            norm = norm._modules[self.norm_name]
        both = self._fused(x, residual, norm, entries, direct, overwrite)
        if both is None:
            return _unfused(x, residual, entries, table)
        normed, residual = both
        if table.readers:
            _call_readers(table, residual)
        self.handoff.give(residual, normed, norm)
        return residual

    @contextmanager
    def bypassed(self, body: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside, `body` computes the layer's output ``[B, T, H]`` from its input."""
        self.bypass = body
        try:
            yield
        finally:
            self.bypass = None

    def _fused(
        self,
        x: Tensor,
        residual: Tensor,
        norm: nn.Module,
        entries: Entries,
        direct: bool,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tensor] | None:
        """Return ``(normed, residual)`` from one op; None where it would do anything else.

        The direct call checks the norm and the tensors itself, and returns None where anything is
        out of the ordinary. What that is, is looked at here.
        """
        offset = self.weight_offset
        if direct:
            both = _C.steer_add_norm(
                norm, self.norm_types, self.epsilon, offset, x, residual, entries, overwrite
            )
            if both is not None:
                return both
        if not self._fusable(x, residual, norm):
            return None
        weight: Any = norm._parameters["weight"]
        epsilon: float = getattr(norm, self.epsilon)
        return ops.steer_add_rms_norm(x, residual, weight, epsilon, *entries, weight_offset=offset)

    def _fusable(self, x: Tensor, residual: Tensor, norm: nn.Module) -> bool:
        """Return whether the op computes what the add and this norm would, on these tensors."""
        weight: Any = norm._parameters.get("weight")
        return (
            type(norm) in self.norm_types
            and "forward" not in norm.__dict__
            and (norm is self.successor or not _has_hooks(norm))
            and type(weight) in _PLAIN
            and weight.device == residual.device
            and type(residual) in _PLAIN
            and residual.dtype in _FUSED_DTYPES
            and type(x) in _PLAIN
            and _same_result_dtype(x, residual)
            and _same_result_dtype(weight, residual)
        )


class EmbeddingSteering:
    """A forward pre-hook that steers `resid_pre` of layer 0; later hooks see its result."""

    def __init__(self, table: SiteTable, layer: nn.Module) -> None:
        """Steer the hidden states that `layer` is given by the entries of `table`."""
        self.table = table
        self.place, self.argument = hidden_argument(layer)

    def steered(self, hidden: Tensor) -> Tensor:
        """Return the steered input; the same tensor where nothing steers it."""
        return steered(hidden, self.table)

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the layer's arguments with the hidden states steered, or None for no change.

        Raises:
            TypeError: the argument of the hidden states is not a tensor.
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
    """Return the stream ``[B, T, H]`` after the entries of `table`; itself where there are none."""
    entries = table.entries(hidden)
    if entries[0] is not None:
        hidden = ops.steer_add(None, hidden, *entries)
    if table.readers:
        _call_readers(table, hidden)
    return hidden


def _unfused(x: Tensor, residual: Tensor, entries: Entries, table: SiteTable) -> Tensor:
    if entries[0] is None:
        residual = residual + x
    elif _same_result_dtype(x, residual):
        residual = ops.steer_add(x, residual, *entries)
    else:
        residual = ops.steer_add(None, residual + x, *entries)
    if table.readers:
        _call_readers(table, residual)
    return residual


def _call_readers(table: SiteTable, residual: Tensor) -> None:
    for reader in table.readers:
        reader(residual)


def _call_inputs_readers(table: SiteTable, x: Tensor, residual: Tensor) -> None:
    for reader in table.inputs_readers:
        reader(x, residual)


def _same_result_dtype(other: Tensor, residual: Tensor) -> bool:
    """Return whether torch's result of the two has the residual's dtype, as the op's has."""
    return other.dtype == residual.dtype or residual.dtype == torch.float32


def _has_hooks(module: nn.Module) -> bool:
    """Return whether a hook depends on this module being called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _any_global_hook()
    )


def _output_reaches(layer: nn.Module, successor: nn.Module) -> bool:
    """Return whether `layer`'s output reaches `successor` without code in between to edit it.

    Never with grad enabled: see `NormHandoff.take`.
    """
    if torch.is_grad_enabled():
        return False
    if successor._forward_pre_hooks or _any_global_hook():
        return False
    for hook in layer._forward_hooks.values():
        # transformers leaves its recorder on every layer after one output_hidden_states=True.
        if getattr(hook, "__module__", "") != "transformers.utils.output_capturing":
            return False
    return _transparent(layer) and _transparent(successor)


def _transparent(module: nn.Module) -> bool:
    """Return whether an instance's own `forward`, if any, hands tensors through unchanged."""
    forward = module.__dict__.get("forward")
    if forward is None or getattr(forward, "__func__", None) is type(module).forward:
        return True
    return type(module.__dict__.get("_hf_hook")).__name__ == "AlignDevicesHook"
