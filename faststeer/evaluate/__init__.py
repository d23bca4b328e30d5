"""How far a model was steered, and at what price."""
