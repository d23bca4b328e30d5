"""One file per model family with fused layers; named after the folder in transformers."""
