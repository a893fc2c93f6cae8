"""From an artifact and the fields of a slide to a call; what the optimizer measures is what serves in a worker."""
