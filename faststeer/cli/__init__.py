"""The commands of `faststeer`, a file each; what they share is in `options`."""
