"""Files and objects that hold steering vectors: ours and those of others."""
