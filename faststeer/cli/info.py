"""The command `faststeer info`: print build and runtime facts for a bug report."""

from __future__ import annotations

import platform

import torch
from rich.console import Console
from rich.table import Table

from faststeer import _C
from faststeer.ops import cuda_library, triton_calls
from faststeer.utils.version import VERSION


def info() -> None:
    """Show versions and kernels, and why CUDA kernels are not loaded if they are not."""
    table = Table(show_header=False)
    for name, fact in runtime_facts().items():
        table.add_row(name, fact)
    Console().print(table)


def runtime_facts() -> dict[str, str]:
    """Return what a bug report needs, by name."""
    import transformers

    built = _C.build_facts()
    return {
        "faststeer": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "built with": f"torch {built['built_with_torch']}, {built['compiler']}",
        "runs with": f"torch {built['torch_abi_target']} and later",
        "CPU kernels": f"{_C.isa()}; supported here: {', '.join(_C.available_isas())}",
        "threads": str(torch.get_num_threads()),
        "CUDA kernels": _cuda_kernels(built["cuda_built"]),
    }


def _cuda_kernels(built_by: str) -> str:
    unavailable = cuda_library.unavailable_reason()
    if unavailable is None:
        return f"loaded; built by {built_by}"
    build = f"; built by {built_by}" if built_by else ""
    instead = "Triton kernels run" if triton_calls.installed() else "plain PyTorch runs"
    return f"{unavailable}{build}; on a GPU {instead} instead"
