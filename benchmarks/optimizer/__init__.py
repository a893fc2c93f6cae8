"""Benchmarks of the optimizer: speed and size of int8 models beside torch eager, and whole optimizations."""
