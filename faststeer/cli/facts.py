"""`faststeer info`: what was built and what runs."""

from __future__ import annotations

import platform

import torch
from rich.console import Console
from rich.table import Table

from faststeer import _C
from faststeer.ops import cuda_library
from faststeer.utils.version import VERSION


def _cuda_kernels(built: str) -> str:
    reason = cuda_library.unavailable_reason()
    if reason is None:
        return f"loaded; built by {built}"
    by = f"; built by {built}" if built else ""
    return f"{reason}{by}; on a GPU the reference in plain PyTorch runs instead"


def facts() -> dict[str, str]:
    """What a bug report needs, by name."""
    import transformers

    built = _C.build_facts()
    return {
        "faststeer": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "built with": f"torch {built['built_with_torch']}, {built['compiler']}",
        "runs with": f"torch {built['torch_abi_target']} and later",
        "CPU kernels": f"{_C.isa()} runs; this processor can run {', '.join(_C.available_isas())}",
        "threads": str(torch.get_num_threads()),
        "CUDA kernels": _cuda_kernels(built["cuda_built"]),
    }


def show(console: Console) -> None:
    """Print the facts as a table."""
    table = Table(show_header=False)
    for name, fact in facts().items():
        table.add_row(name, fact)
    console.print(table)
