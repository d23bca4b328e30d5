"""A plugin of pytest: the CPU's steering ops are those of Triton, run by its interpreter.

Load it with ``-p on_triton`` and ``TRITON_INTERPRET=1`` set. Tests of the ops then test the Triton
kernels, launched through the checks and the dispatcher as on a GPU.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from faststeer import _C
from faststeer.models import residual_stream
from faststeer.ops import functional, reference, triton_calls

assert os.environ.get("TRITON_INTERPRET") == "1", "the kernels would be compiled for a GPU"


class Dispatched:
    """Stands for `_C`, whose calls without the dispatcher leave every call to the dispatcher."""

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name.startswith("steer_add") else getattr(_C, name)


functional._C = residual_stream._C = Dispatched()


def with_inverse_rms(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the op with autograd does, ``(out, h, inverse_rms)``."""
    out, h = triton_calls.steer_add_rms_norm(*arguments)
    return out, h, reference.inverse_rms(h, arguments[3])


LIBRARY = torch.library.Library("faststeer", "IMPL")
for name, function in (
    ("steer_add_rms_norm", triton_calls.steer_add_rms_norm),
    ("steer_add_rms_norm_autograd", with_inverse_rms),
    ("steer_add_rms_norm.out", triton_calls.steer_add_rms_norm_out),
    ("steer_add", triton_calls.steer_add),
    ("steer_add_autograd", triton_calls.steer_add),
):
    LIBRARY.impl(name, function, "CPU", allow_override=True)
