"""Active steering: named interventions, folded into the fixed-address tensors that kernels read."""
