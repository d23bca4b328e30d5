"""The fused ops as PyTorch sees them: wrappers, fake kernels, autograd, reference."""

from faststeer.ops.functional import (
    accumulate_moments,
    steer_add,
    steer_add_rms_norm,
    steer_add_rms_norm_out,
)

__all__ = ["accumulate_moments", "steer_add", "steer_add_rms_norm", "steer_add_rms_norm_out"]
