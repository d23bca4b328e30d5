"""Small helpers that are independent of steering: files, progress, version, machine facts."""
