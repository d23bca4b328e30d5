"""What a steering vector is: directions by layer, sites, arithmetic, file formats."""
