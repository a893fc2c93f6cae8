"""Tests of the gRPC plumbing, over a real socket."""
