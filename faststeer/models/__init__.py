"""What faststeer knows about transformers models: families, fused layers, decoders, loading."""

from faststeer.models.inference import continuations
from faststeer.models.loading import load

__all__ = ["continuations", "load"]
