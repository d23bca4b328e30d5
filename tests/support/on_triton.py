"""A plugin of pytest: the CPU's steering ops are those of Triton, run by its interpreter.

Load it with ``-p on_triton`` and ``TRITON_INTERPRET=1`` set. Tests of the ops then test the Triton
kernels, launched through the checks and the dispatcher as on a GPU.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from faststeer import _C
from faststeer.ops import functional, triton_calls

assert os.environ.get("TRITON_INTERPRET") == "1", "the kernels would be compiled for a GPU"


class Dispatched:
    """Stands for `_C`, whose calls without the dispatcher leave every call to the dispatcher."""

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name.startswith("steer_add") else getattr(_C, name)


functional._C = Dispatched()

LIBRARY = torch.library.Library("faststeer", "IMPL")
for name, function in (
    ("steer_add_rms_norm", triton_calls.steer_add_rms_norm),
    ("steer_add_rms_norm_autograd", triton_calls.steer_add_rms_norm),
    ("steer_add_rms_norm.out", triton_calls.steer_add_rms_norm_out),
    ("steer_add", triton_calls.steer_add),
    ("steer_add_autograd", triton_calls.steer_add),
):
    LIBRARY.impl(name, function, "CPU", allow_override=True)
