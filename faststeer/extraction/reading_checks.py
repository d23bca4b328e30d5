"""Checks of reading: finite activations, and no forward hooks that change layers after it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from faststeer.models.patch_mark import MARK
from faststeer.patching.patched import Patched
from faststeer.utils.warnings import FaststeerWarning


def require_finite(
    found: Mapping[int, Tensor], site: str, dtype: torch.dtype | None, names: Sequence[str]
) -> None:
    """Raise ValueError where activations, layer -> ``[B, ...]``, are infinite or NaN.

    One synchronisation with the device for all layers.

    Args:
        found: activations by layer.
        site: where they were read.
        dtype: the residual stream's.
        names: how the message refers to each of the B texts.
    """
    flags = [rows.isfinite().all() for rows in found.values()]
    if torch.stack([flag.to(flags[0].device) for flag in flags]).all():
        return
    layer, rows = next((n, rows) for n, rows in sorted(found.items()) if not rows.isfinite().all())
    [first, *_] = (~rows.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    remedy = "reduce the steering or check the weights"
    if dtype == torch.float16:
        remedy = "load the model in bfloat16 or float32"
    raise ValueError(
        f"{site} of layer {layer} is infinite or NaN in {str(dtype).removeprefix('torch.')}, first "
        f"at {names[first]}: {remedy}, or read layers below"
    )


def steers_by_place(decoder: nn.Module) -> bool:
    """Return whether a decoder's steering depends on positions or rows, which needs whole texts."""
    patched = decoder.__dict__.get(MARK)
    if not isinstance(patched, Patched):
        return False
    return bool(patched.plan.rows or patched.plan.forward.needs_tokens)


def warn_of_later_hooks(blocks: Sequence[nn.Module], layers: Sequence[int], site: str) -> None:
    """Warn where forward hooks change a layer's output after it is read.

    The hooks by which transformers records hidden states do not count.
    """
    if site == "resid_mid":
        return
    shift = site == "resid_pre"
    hooked = [
        layer
        for layer in (layer - shift for layer in layers if layer >= shift)
        if any(
            getattr(hook, "__module__", "") != "transformers.utils.output_capturing"
            for hook in blocks[layer]._forward_hooks.values()
        )
    ]
    if hooked:
        warnings.warn(
            f"layers {hooked} have forward hooks; their changes to the residual stream are missing "
            "from the activations read there, and only affect those of later layers",
            FaststeerWarning,
            stacklevel=4,
        )
