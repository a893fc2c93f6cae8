"""Tests of the night report and of `gramserve status`."""
