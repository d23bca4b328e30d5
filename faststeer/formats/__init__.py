"""Files that hold steering vectors."""
