"""Tests of gramserve.store."""
