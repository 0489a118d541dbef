"""Sources on Redis."""
