"""Measure what steering costs on a model, and check that the patch is exact."""

from faststeer.diagnostics.bench.flat import flat_records

__all__ = ["flat_records"]
