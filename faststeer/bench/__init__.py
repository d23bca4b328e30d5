"""Measure what steering costs on a model, and check that the patch is exact."""
