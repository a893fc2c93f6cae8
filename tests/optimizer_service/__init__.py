"""Tests of the optimizer service around its core."""
