"""From texts to activations to vectors: reader, capture, moments, methods."""
