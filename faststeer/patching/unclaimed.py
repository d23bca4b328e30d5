"""Decoders that `faststeer.install` fused, and whose handle nobody has asked for.

They are as stock models are to everybody else: several threads may use one, it may be deep-copied,
and it is freed when its last user lets go.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakSet, ref

from torch import nn

from faststeer.models.decoders import family_layers
from faststeer.models.family import Family
from faststeer.models.patch_mark import MARK
from faststeer.patching.class_swap import restore
from faststeer.patching.forward_hooks import devices_of
from faststeer.patching.fused import FusedPatch

# Decoders that are or were dormant: what uninstall() has to look at.
fused_decoders: WeakSet[nn.Module] = WeakSet()


class UnclaimedPatch:
    """Under `MARK` of a fused decoder, until `patch` makes a handle of it."""

    def __init__(self, decoder: nn.Module, attachment: FusedPatch) -> None:
        """`attachment` is attached."""
        self.attachment = attachment
        self._decoder = ref(decoder)
        fused_decoders.add(decoder)

    def __deepcopy__(self, memo: dict[int, Any]) -> UnclaimedPatch:
        """That of the copy of the decoder, which is being made."""
        attachment: FusedPatch = copy.deepcopy(self.attachment, memo)
        return UnclaimedPatch(memo[id(self._decoder())], attachment)

    def waken(self, decoder: nn.Module, family: Family) -> FusedPatch:
        """What is attached to the decoder, as it is now: layers may have come or moved since.

        Raises:
            ValueError: a layer that has come cannot be replaced; the decoder is stock then.
        """
        if family_layers(decoder, family) == self.attachment.layers:
            self.attachment.bind(decoder)
            self.attachment.plan.tables.settle(devices_of(self.attachment.layers))
            return self.attachment
        self.attachment.detach()
        del decoder.__dict__[MARK]
        for layer in family_layers(decoder, family):
            if type(layer) is family.steered_layer:  # a copy of one that was fused
                restore(layer, family.layer)
        attachment = FusedPatch(decoder, family)
        attachment.attach(decoder)
        return attachment


def fuse(decoder: nn.Module, family: Family) -> None:
    """Make a stock decoder a dormant one. Raises ValueError where a layer cannot be replaced."""
    attachment = FusedPatch(decoder, family)
    attachment.attach(decoder)
    decoder.__dict__[MARK] = UnclaimedPatch(decoder, attachment)
