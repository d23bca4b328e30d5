"""`install`: fuse every model that is created afterwards, whichever code creates it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from faststeer.models.families import family_of
from faststeer.models.loading import default_dtype
from faststeer.models.patch_mark import MARK
from faststeer.models.transformers_release import check_transformers
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.patching.unclaimed import UnclaimedPatch, fuse, fused_decoders
from faststeer.utils.warnings import FaststeerWarning

Prepare = Callable[[Patched], object]


def install(prepare: Prepare | None = None) -> None:
    """Fuse every decoder of a known family that is created afterwards, whichever code creates it.

    That includes the models of pipelines and evaluations, and the text model of a multimodal one.
    Each computes what its stock class does, to rounding, is saved as such, and has no handle until
    ``faststeer.patch(model)`` returns one; what was compiled before recompiles once then. Existing
    models stay as they are.

    Args:
        prepare: called with the handle of each such decoder as soon as it is created, before its
            weights are loaded: for code that does not hand out its model. What it raises reaches
            the code that creates the model. Another call of `install` replaces it.

    Raises:
        ImportError: transformers is not installed, or older than 4.57; as `patch` does.
    """
    check_transformers()
    _installation.prepare = prepare
    _installation.begin()


def uninstall() -> None:
    """Undo `install`: new models are stock, and those it fused become stock. Idempotent.

    Raises:
        RuntimeError: another thread is using one of them by its handle; nothing has changed then.
    """
    marks = [(decoder, decoder.__dict__.get(MARK)) for decoder in fused_decoders]
    for _, mark in marks:
        if isinstance(mark, Patched):
            mark.plan.forward.guard.require()
    _installation.end()
    for decoder, mark in marks:
        if isinstance(mark, Patched):
            mark.unpatch()
        elif isinstance(mark, UnclaimedPatch):
            mark.attachment.detach()
            del decoder.__dict__[MARK]
    fused_decoders.clear()


class _Installation:
    """The replacement of ``PreTrainedModel.post_init``, which ends every model's constructor."""

    def __init__(self) -> None:
        self.prepare: Prepare | None = None
        self.active = False

    def begin(self) -> None:
        if self.active:
            return
        self.active = True
        everyone = _pretrained_model()
        self.stock: Callable[[Any], None] = everyone.post_init

        @functools.wraps(self.stock)
        def post_init(model: Any) -> None:
            stock(model)
            if self.active and self.own is post_init:
                self.made(model)

        stock, self.own = self.stock, post_init
        everyone.post_init = post_init

    def end(self) -> None:
        if not self.active:
            return
        self.active = False
        everyone = _pretrained_model()
        if everyone.post_init is self.own:  # else it was wrapped, and does nothing inside
            everyone.post_init = self.stock

    def made(self, model: nn.Module) -> None:
        """Fuse a model whose constructor ends, unless a subclass continues it."""
        family = family_of(model)
        if family is None:
            if hasattr(model, "generate"):
                for module in model.modules():
                    mark = module.__dict__.get(MARK)
                    if isinstance(mark, Patched):
                        mark.watch(model)
            return
        if MARK in model.__dict__:
            return
        with _usual_tensors():
            try:
                fuse(model, family)
            except ValueError as reason:
                warnings.warn(
                    f"a {type(model).__name__} stays stock: {reason}",
                    FaststeerWarning,
                    stacklevel=2,
                )
                return
            if self.prepare is not None:
                self.prepare(patch(model))


_installation = _Installation()


def _pretrained_model() -> Any:
    from transformers import PreTrainedModel

    return PreTrainedModel


@contextmanager
def _usual_tensors() -> Iterator[None]:
    """Inside, create tensors on the CPU in float32; models are often created on `meta`."""
    with torch.device("cpu"), default_dtype(torch.float32):
        yield
