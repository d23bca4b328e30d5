"""Changing a model in place and undoing it: patch, install, bake."""
