"""A plugin of pytest: the CPU's steering ops are those of Triton, run by its interpreter.

Load it with ``-p on_triton`` and ``TRITON_INTERPRET=1`` set. Tests of the ops then test the Triton
kernels, launched through the checks and the dispatcher as on a GPU.
"""

import os
from types import SimpleNamespace

import torch

from faststeer.ops import functional, triton_calls

assert os.environ.get("TRITON_INTERPRET") == "1", "the kernels would be compiled for a GPU"

# The call that skips the dispatcher is of the CPU's kernels.
functional._C = SimpleNamespace(steer_add_rms_norm_out=lambda *arguments: False)

LIBRARY = torch.library.Library("faststeer", "IMPL")
for name, function in (
    ("steer_add_rms_norm", triton_calls.steer_add_rms_norm),
    ("steer_add_rms_norm_autograd", triton_calls.steer_add_rms_norm),
    ("steer_add_rms_norm.out", triton_calls.steer_add_rms_norm_out),
    ("steer_add", triton_calls.steer_add),
    ("steer_add_autograd", triton_calls.steer_add),
):
    LIBRARY.impl(name, function, "CPU", allow_override=True)
