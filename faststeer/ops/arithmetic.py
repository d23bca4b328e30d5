"""What the last bits of a model's results depend on, besides its weights and inputs."""

from __future__ import annotations

from typing import Any

import torch

from faststeer import _C
from faststeer.ops import cuda_library, triton_calls
from faststeer.utils.machine import cpu_model, installed_version


def arithmetic_facts(device: torch.device) -> dict[str, Any]:
    """Return, as JSON values, releases, kernels, processors, threads and settings of precision."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": installed_version("transformers"),
        "kernels": _C.isa(),
        "cpu": [cpu_model(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": device.type,
        "autocast": None,
    }
    if torch.is_autocast_enabled(device.type):
        facts["autocast"] = str(torch.get_autocast_dtype(device.type))
    if device.type == "cuda":
        attention: Any = torch.backends.cuda
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda kernels": [cuda_library.unavailable_reason(), triton_calls.installed()],
            "attention": [
                attention.flash_sdp_enabled(),
                attention.mem_efficient_sdp_enabled(),
                attention.math_sdp_enabled(),
                attention.cudnn_sdp_enabled(),
            ],
        }
    return facts
