"""`patch`: make a model's residual stream steerable in place.

A model that cannot be patched is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from faststeer.models.decoders import find_blocks, find_known
from faststeer.models.family import Family
from faststeer.models.patch_mark import MARK
from faststeer.models.transformers_release import check_transformers
from faststeer.patching.fused import FusedPatch
from faststeer.patching.hooked import HookPatch, warn_of_hooks
from faststeer.patching.patched import Patched
from faststeer.patching.unclaimed import UnclaimedPatch, fuse


def patch(model: nn.Module) -> Patched:
    """Make `model` steerable in place, and a little faster.

    `model` is a LlamaForCausalLM, a LlamaModel, or a module with one of them inside, such as a
    PEFT model. Decoders of unknown families are steered by hooks, not faster than stock, with a
    warning. For a model that is patched already, its handle is returned. As a context manager the
    handle unpatches on exit, also after an error; of nested blocks, on leaving the outermost.

    Raises:
        ImportError: transformers is not installed, or older than 4.57. A release newer than the
            newest tested gives a FaststeerWarning, once per process.
        TypeError: not a module.
        ValueError: no decoder inside or more than one, or a layer that cannot be replaced; nothing
            has been changed then.
    """
    check_transformers()
    found = find_known(model)
    decoder, parts = found or find_blocks(model)
    mark: Patched | UnclaimedPatch | None = decoder.__dict__.get(MARK)
    if isinstance(mark, Patched):
        mark.watch(model)
        return mark
    if isinstance(parts, Family):
        if mark is not None:
            return Patched(model, decoder, mark.claim(decoder, parts))
        attachment: FusedPatch | HookPatch = FusedPatch(decoder, parts)
    else:
        attachment = HookPatch(decoder, parts)
        warn_of_hooks(decoder)
    attachment.attach(decoder)
    return Patched(model, decoder, attachment)


@contextmanager
def temporarily_patched(model: nn.Module) -> Iterator[Patched]:
    """Patch a model inside the `with` block and restore its previous state on exit.

    Yields the handle of a model that is patched already, whose vectors stay. Raises as `patch`.
    """
    decoder, parts = find_known(model) or find_blocks(model)
    before = decoder.__dict__.get(MARK)
    patched = patch(model)
    try:
        yield patched
    finally:
        if before is not patched:
            patched.unpatch()
            if isinstance(before, UnclaimedPatch) and isinstance(parts, Family):
                fuse(decoder, parts)
