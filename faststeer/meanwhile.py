"""A model patched for as long as something is measured on it, and afterwards what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from faststeer.dormant import Dormant, fuse
from faststeer.finding import find_blocks, find_known
from faststeer.models import Family
from faststeer.patching import Patched, patch
from faststeer.swapping import MARK


@contextmanager
def patched_meanwhile(model: nn.Module) -> Iterator[Patched]:
    """The model's handle, whose vectors stay. A stock model is stock again afterwards, and one that
    `faststeer.install` made is fused, without a handle. Raises as `patch`.
    """
    decoder, parts = find_known(model) or find_blocks(model)
    before = decoder.__dict__.get(MARK)
    patched = patch(model)
    try:
        yield patched
    finally:
        if before is not patched:
            patched.unpatch()
            if isinstance(before, Dormant) and isinstance(parts, Family):
                fuse(decoder, parts)
