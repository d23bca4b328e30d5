"""Small helpers that know nothing of steering: atomic writes, progress, version, machine facts."""
