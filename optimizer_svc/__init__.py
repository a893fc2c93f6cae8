"""The optimizer: turns a laboratory's checkpoint into the fastest artifact that keeps its accuracy."""
