"""What faststeer knows about transformers models: families, fused layers, decoders, loading."""
