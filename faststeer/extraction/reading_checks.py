"""What is checked when activations are read: that they are finite, and that no hook is missed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from faststeer.utils.warnings import FaststeerWarning


def require_finite(
    found: Mapping[int, Tensor], site: str, dtype: torch.dtype | None, names: Sequence[str]
) -> None:
    """Raise ValueError where activations, by layer ``[B, ...]``, are infinite or NaN.

    One synchronisation with the device for all layers. `dtype` is the stream's, `names` are those
    of the B texts.
    """
    flags = [own.isfinite().all() for own in found.values()]
    if torch.stack([flag.to(flags[0].device) for flag in flags]).all():
        return
    layer, own = next((n, own) for n, own in sorted(found.items()) if not own.isfinite().all())
    [first, *_] = (~own.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    mend = "its weights or what steers it are too large"
    if dtype == torch.float16:
        mend = "load the model in bfloat16 or float32"
    raise ValueError(
        f"{site} of layer {layer} is infinite or NaN in {str(dtype).removeprefix('torch.')}, first "
        f"at {names[first]}: {mend}, or read layers below"
    )


def warn_of_later_hooks(blocks: Sequence[nn.Module], layers: Sequence[int], site: str) -> None:
    """Warn where forward hooks change a layer's output after it is read.

    transformers' own recorder of hidden states does not count.
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
            f"layers {hooked} have forward hooks; what these change in the residual stream is "
            "not in what is read there, only in what later layers make of it",
            FaststeerWarning,
            stacklevel=4,
        )
