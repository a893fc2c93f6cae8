"""A seeded night of chaos on a real stack: what was accepted ends once, and memory stays flat. See docs/promises.md."""
