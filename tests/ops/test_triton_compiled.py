"""What Triton makes of its kernels for GPUs: machine code, read without a GPU."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from faststeer.ops import triton_calls

if not triton_calls.installed() or os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("make test-triton installs Triton and runs this file", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget

from faststeer.ops.triton_kernels import steer_rows

POINTERS = {
    **dict.fromkeys(("x", "residual", "weight", "out", "residual_out"), "*bf16"),
    "index": "*i32",
    **dict.fromkeys(("vectors", "coefficient", "modes"), "*fp32"),
}
FLOATS = ("share", "eps", "weight_offset")
ALIGNED = ("x", "residual", "weight", "out", "residual_out", "vectors", "hidden")
CUDA = [GPUTarget("cuda", architecture, 32) for architecture in (75, 80, 90, 100)]
HIP = [GPUTarget("hip", "gfx942", 64), GPUTarget("hip", "gfx1100", 32)]


def compiled(
    target: Any, hidden: int, absent: tuple[str, ...] = ("modes",), fused: bool = False
) -> Any:
    """Compile for rows of bfloat16 and float32 vectors, as a launch of that many columns does."""
    block, one_block, warps = triton_calls.block_of(hidden)
    constants = {"block": block, "one_block": one_block, **dict.fromkeys(absent)}
    names = steer_rows.arg_names
    signature = {
        name: "constexpr"
        if name in constants
        else POINTERS.get(name, "fp32" if name in FLOATS else "i32")
        for name in names
    }
    source = triton.compiler.ASTSource(
        fn=steer_rows,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name in names
            if (name in ALIGNED or name.endswith("stride")) and name not in constants
        },
    )
    options = triton_calls.OPTIONS | {"num_warps": warps}
    if fused:
        options["enable_fp_fusion"] = True
    return triton.compile(source, target=target, options=options)


@pytest.mark.parametrize("target", CUDA, ids=str)
@pytest.mark.parametrize(
    ("hidden", "absent"),
    [(4096, ("modes",)), (4096, ()), (65536, ("modes",))],
    ids=["added", "modes", "several blocks"],
)
def test_cuda_code_has_no_fused_multiply_add_and_moves_16_bytes(target, hidden, absent) -> None:
    ptx = compiled(target, hidden, absent).asm["ptx"]
    assert not re.findall(r"\bfma\.", ptx)
    assert "mul.rn.f32" in ptx
    accesses = set(re.findall(r"\b(?:ld|st)\.global\.(\S+)", ptx))
    assert accesses == {"b32", "v4.b32"}  # of an entry, and of rows


@pytest.mark.parametrize("target", HIP, ids=str)
def test_rocm_code_of_an_addition_has_no_fused_multiply_add(target) -> None:
    """Without the norm, whose division and square root are made of them."""
    code = compiled(target, 4096, absent=("modes", "weight", "out")).asm["amdgcn"]
    assert re.findall(r"\bv_\w*mul_f32", code)
    assert not re.findall(r"\bv_\w*(?:fma|mac)\w*", code)


def test_cuda_code_would_be_fused_if_a_launch_did_not_forbid_it() -> None:
    assert re.findall(r"\bfma\.", compiled(CUDA[2], 4096, fused=True).asm["ptx"])
