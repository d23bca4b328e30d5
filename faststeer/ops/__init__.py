"""The fused ops as PyTorch sees them: wrappers, fake kernels, autograd, reference."""
