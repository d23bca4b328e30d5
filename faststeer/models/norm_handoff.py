"""`NormHandoff`: a norm that one layer computes for the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormHandoff:
    """A norm that one layer has computed for the next; one per model."""

    def __init__(self) -> None:
        """Start empty."""
        self.waiting: tuple[Tensor, Tensor, nn.Module, int | None] | None = None

    def give(self, residual: Tensor, normed: Tensor, norm: nn.Module) -> None:
        """Keep `normed`, which equals ``norm(residual)``.

        The count of in-place edits of the residual tells whether it still does, as where other code
        loops over the layers. Torch keeps none for inference tensors and in graphs: there, only
        hooks and wrappers are looked at.
        """
        counted = not (torch.compiler.is_compiling() or residual.is_inference())
        self.waiting = (residual, normed, norm, residual._version if counted else None)

    def take(self, residual: Tensor, norm: nn.Module) -> Tensor | None:
        """Return ``norm(residual)`` where it was kept, and forget it.

        Never with grad enabled: the value was computed without, as by a layer inside a reentrant
        checkpoint, and would cut the gradient.
        """
        waiting = self.waiting
        self.waiting = None
        if waiting is None or torch.is_grad_enabled():
            return None
        known, normed, for_norm, version = waiting
        if known is not residual or for_norm is not norm:
            return None
        return normed if version is None or version == residual._version else None
