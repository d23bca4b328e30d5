"""Liger's fused add and norm (unsteered), where it is installed and runs."""

from __future__ import annotations

from functools import partial

from cases import EPS, Case, Steering
from compiled_peers import Compiler, Function, failure
from torch import Tensor
from variants import LIGER, Result

from faststeer.utils.machine import installed_version


def fused_add_norm(case: Case, inputs: Steering, compiler: Compiler) -> Function | None:
    """Return Liger's kernel, or None where it does not run; on a GPU the reason is recorded."""
    if inputs.x.device.type != "cuda":
        return None
    if installed_version("liger-kernel") is None:
        return compiler.leave_out(LIGER, case, "not installed")
    try:
        from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction

        fused = partial(_call, LigerFusedAddRMSNormFunction.apply)
        fused(*inputs[:3])
    except Exception as error:
        return compiler.leave_out(LIGER, case, failure(LIGER, error))
    return fused


def _call(apply: Function, x: Tensor, residual: Tensor, weight: Tensor) -> Result:
    return apply(x, residual, weight, EPS)
