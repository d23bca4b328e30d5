"""Steering vectors: directions by layer, sites, arithmetic, stated use and file formats."""
