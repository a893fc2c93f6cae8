"""KServe."""
