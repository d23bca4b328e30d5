"""Modules of vLLM that steer: only those beside a site that has vectors, all others stay stock."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from faststeer.ops.entry_tables import EntryTable

_TENSORS = ("vectors", "index", "coefficient", "modes")  # in the order of the ops
_COUNTED = ("group", "place", "count", "mean", "m2", "norms")


class _Steered:
    """What a steered module adds to its stock class."""

    def entries(self: Any, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return vectors, index, coefficient and modes of the first tokens."""
        return (
            self.faststeer_vectors,
            self.faststeer_index[:tokens],
            self.faststeer_coefficient[:tokens],
            self.faststeer_modes,
        )

    def observe(self: Any, hidden: Tensor) -> None:
        """Count the steered stream's tokens ``[N, H]``, where this engine captures statistics."""
        if not self.faststeer_counts:  # decided at start, so that graphs hold no call
            return
        tokens = hidden.shape[0]
        torch.ops.faststeer.accumulate_moments.default(
            hidden,
            self.faststeer_group[:tokens],
            self.faststeer_count,
            self.faststeer_mean,
            self.faststeer_m2,
        )
        norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
        self.faststeer_norms.index_copy_(0, self.faststeer_place[:tokens], norms)


class SteeredNorm(_Steered):
    """An RMSNorm whose residual is steered in the pass that adds and norms."""

    def forward(self: Any, x: Tensor, residual: Tensor | None = None) -> Any:
        """Return the norm of the steered residual, and that residual, ``[N, H]`` each."""
        _require_residual(residual)
        out, hidden = torch.ops.faststeer.steer_add_rms_norm.default(
            x,
            residual,
            self.weight,
            self.variance_epsilon,
            *self.entries(x.shape[0]),
            self.faststeer_weight_offset,
        )
        self.observe(hidden)
        return out, hidden


class SteeredNormInPlace(_Steered):
    """The same of a norm whose stock class may overwrite its arguments too, by number of a table.

    No result is made and no table named: a call from a compiled step takes half the time.
    """

    def forward(self: Any, x: Tensor, residual: Tensor | None = None) -> Any:
        """Return `x`, now the norm, and `residual`, now steered, ``[N, H]`` each."""
        torch.ops.faststeer.steer_add_rms_norm_by_table.default(
            x,
            _require_residual(residual),
            self.weight,
            self.variance_epsilon,
            self.faststeer_weight_offset,
            self.faststeer_table_number,
        )
        self.observe(residual)
        return x, residual


class SteeredOutput(_Steered):
    """A layer, or an embedding, whose output is the residual stream: one more kernel steers it."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the steered output, ``[N, H]``."""
        hidden = cast(Any, super()).forward(*args, **kwargs)  # of the stock class
        steered = torch.ops.faststeer.steer_add.default(
            None, hidden, *self.entries(hidden.shape[0])
        )
        self.observe(steered)
        return steered


def _require_residual(residual: Tensor | None) -> Tensor:
    if residual is None:
        raise RuntimeError("faststeer steers at this norm, which is now called without a residual")
    return residual


def make_steered(
    module: nn.Module,
    kind: type[_Steered],
    tensors: dict[str, Tensor],
    weight_offset: float = 0.0,
) -> int | None:
    """Let a module steer. Its class is swapped, so that names and hooks stay as they are.

    Returns the number of the table that its calls name; None where they name tensors.

    Args:
        module: a norm, a layer or an embedding.
        kind: `SteeredNorm`, `SteeredNormInPlace` or `SteeredOutput`.
        tensors: ``index`` ``[N, K]``, ``coefficient`` ``[N, K]``, ``vectors`` ``[S, H]``, ``modes``
            ``[S, 5]``. Where statistics are captured also ``group`` ``[N]``, ``place`` ``[N]``,
            ``count`` ``[G]``, ``mean`` and ``m2`` ``[G, H]``, ``norms`` ``[P]``.
        weight_offset: added to the norm's weight.
    """
    if "forward" in module.__dict__:
        raise RuntimeError(
            f"{type(module).__name__} has a forward of its own, which would hide faststeer's"
        )
    steered: Any = module
    stock = type(module)
    number = None
    counts = "group" in tensors
    for name in _TENSORS + (_COUNTED if counts else ()):
        module.register_buffer(f"faststeer_{name}", tensors[name], persistent=False)
    if kind is SteeredNormInPlace:
        steered.faststeer_table = EntryTable(*(tensors[name] for name in _TENSORS))
        steered.faststeer_table_number = number = steered.faststeer_table.number
    steered.faststeer_counts = counts
    steered.faststeer_weight_offset = weight_offset
    module.__class__ = type(stock.__name__, (kind, stock), {"__module__": stock.__module__})
    return number
