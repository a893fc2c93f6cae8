"""Benchmarks: where the time, the CPU and the memory of a slide go, beside a bare loop in the same run."""
