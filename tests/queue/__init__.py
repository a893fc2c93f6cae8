"""Tests of gramserve.queue."""
