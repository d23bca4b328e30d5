"""Decoders that `faststeer.install` fused and that have no `Patched` handle yet.

They behave as stock models: several threads may use one, it may be deep-copied, and it is freed
when its last user releases it.
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
from faststeer.patching.fused import FusedPatch
from faststeer.patching.start_forward import devices_of

# Decoders that are or were unclaimed: those that uninstall() has to restore.
fused_decoders: WeakSet[nn.Module] = WeakSet()


class UnclaimedPatch:
    """The state under `MARK` of a fused decoder, until `patch` makes a handle."""

    def __init__(self, decoder: nn.Module, attachment: FusedPatch) -> None:
        """Keep an attachment that is attached."""
        self.attachment = attachment
        self._decoder = ref(decoder)
        fused_decoders.add(decoder)

    def __deepcopy__(self, memo: dict[int, Any]) -> UnclaimedPatch:
        """Return that of the decoder's copy, which is being made."""
        attachment: FusedPatch = copy.deepcopy(self.attachment, memo)
        return UnclaimedPatch(memo[id(self._decoder())], attachment)

    def claim(self, decoder: nn.Module, family: Family) -> FusedPatch:
        """Return the current attachment, re-attached if layers were added or moved.

        Raises:
            ValueError: a new layer cannot be replaced; the decoder is stock then.
        """
        if family_layers(decoder, family) == self.attachment.layers:
            self.attachment.bind(decoder)
            self.attachment.plan.tables.follow_devices(devices_of(self.attachment.layers))
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
    """Fuse a stock decoder, without a handle. Raises ValueError: a layer cannot be replaced."""
    attachment = FusedPatch(decoder, family)
    attachment.attach(decoder)
    decoder.__dict__[MARK] = UnclaimedPatch(decoder, attachment)
