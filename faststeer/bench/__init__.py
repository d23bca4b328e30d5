"""What steering costs on a model, and whether the patch is exact."""
